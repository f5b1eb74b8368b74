"""How a training step is executed: where, in which memory, compiled, recorded. The same numbers all ways."""
