"""The JSON routes, one file a page; documented at /api."""

from fledge.studio.routes import data, microscope, origin, playground, runs, tokenizer

PAGES = (runs, playground, microscope, tokenizer, data, origin)
