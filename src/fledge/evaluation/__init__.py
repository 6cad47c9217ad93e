"""The quality of a model on a whole split."""
