"""`python -m localsl` is `python run.py`."""

from localsl.cli.main import main

main()
