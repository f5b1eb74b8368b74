"""The papers' numbers and constants, as data."""
