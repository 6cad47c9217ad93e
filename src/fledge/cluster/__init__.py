"""Everything that uses Ray."""
