"""The GPT itself, in small parts."""
