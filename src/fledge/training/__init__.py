"""One update, many updates, a whole run: objectives, steps, checkpoints, recovery."""
