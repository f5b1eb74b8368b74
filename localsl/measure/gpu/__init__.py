"""Tests and measurements for minutes on a machine with a GPU: `python -m localsl.measure.gpu`, `make gpu`."""
