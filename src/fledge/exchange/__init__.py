"""Import and export: weights, vocabularies and descriptions in other programs' files."""
