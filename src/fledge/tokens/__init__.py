"""Text to ids and back, and the dataset of ids on disk."""
