"""How results show themselves in a notebook: HTML tables and pictures. Used by api.py."""
