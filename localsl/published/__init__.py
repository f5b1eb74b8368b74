"""Numbers and constants of the papers, as data."""
