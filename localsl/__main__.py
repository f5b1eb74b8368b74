"""Lets `python -m localsl` do what `python run.py` does."""

from localsl.cli.main import main

main()
