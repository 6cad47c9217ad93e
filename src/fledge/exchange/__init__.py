"""To and from the rest of the world: weights, vocabularies and descriptions in other programs' files."""
