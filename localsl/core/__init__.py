"""The network cut into gradient-isolated modules: losses, objectives, partition; plain arguments only."""
