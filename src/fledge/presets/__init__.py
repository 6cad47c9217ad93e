"""Complete, readable run configurations."""
