"""Checkpoints: the state of a training run as tensors and JSON, on disk and back."""
