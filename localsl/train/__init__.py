"""Training: the step, evaluation, optimizers, learning rates, health checks, peak memory and signals."""
