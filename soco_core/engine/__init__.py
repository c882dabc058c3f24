"""The engine room of all training: processes, devices, checkpoints, signals, progress."""
