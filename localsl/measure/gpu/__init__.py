"""What a machine with a GPU is asked, in minutes: `python -m localsl.measure.gpu`, `make gpu`."""
