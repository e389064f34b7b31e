"""The training loop and its parts: setup, optimiser, averages, validation, checkpoints and logs."""
