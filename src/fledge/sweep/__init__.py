"""Search for settings with many training runs, proposed by Optuna."""
