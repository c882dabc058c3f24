"""The pretraining stage: loss, LARS, schedules, training loop (paper 3.3, 4.1)."""
