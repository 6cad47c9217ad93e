"""Look into a trained model and its training: which text a step learned from."""
