"""fledge: raise a GPT from scratch: your text, your machine, every step visible."""

__version__ = "0.1.0"
