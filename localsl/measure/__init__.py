"""The cost of a run: memory, operations and time, each recorded with its definition."""
