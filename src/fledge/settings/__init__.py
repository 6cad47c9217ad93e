"""Settings of a run: layers → scaling rules → validated → completed."""
