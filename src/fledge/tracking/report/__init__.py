"""A run as one page: HTML that needs nothing else, and the same in Markdown."""
