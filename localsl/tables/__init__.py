"""The papers' tables: published numbers, the runs that measure them, and results beside the paper."""
