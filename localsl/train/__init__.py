"""Training: one step, epochs, evaluation, optimizers, schedules, checkpoints."""
