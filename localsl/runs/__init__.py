"""Runs: their identity, files, loggers, provenance, and one run from configuration to record."""
