"""Auxiliary networks: the networks between a module's features and its local losses."""
