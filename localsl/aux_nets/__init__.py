"""Auxiliary networks: what stands between a module's features and its local losses."""
