"""Tokens on disk: how a dataset is made from text, and how it is read."""
