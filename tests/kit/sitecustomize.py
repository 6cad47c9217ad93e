"""Python imports this at its start, if the folder is on PYTHONPATH."""

import pretend  # noqa: F401
