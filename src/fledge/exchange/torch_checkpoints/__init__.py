"""Checkpoints that other GPT programs have written with `torch.save`."""
