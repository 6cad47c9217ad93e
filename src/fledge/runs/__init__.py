"""Run folders: open one, read its files, compare its settings."""
