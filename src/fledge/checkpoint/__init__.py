"""Checkpoints: the state of a training as tensors and JSON, on disk and back."""
