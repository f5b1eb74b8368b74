"""How a training step is executed: devices, compilation, CUDA graphs, recomputation, several processes."""
