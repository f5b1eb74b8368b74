"""The papers' tables: published numbers, the runs that measure them, and the rendered results."""
