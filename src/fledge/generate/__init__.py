"""A model and a prompt, turned into text."""
