"""Supervised local learning: networks cut into gradient-isolated modules, every rule in one loop."""
