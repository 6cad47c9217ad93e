"""Losses and log-probabilities: sums and counts, never means."""
