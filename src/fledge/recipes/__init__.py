"""One module per command; combines the packages below."""
