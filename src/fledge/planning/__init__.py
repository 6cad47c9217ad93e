"""Forecasts of time, memory and loss, and the search for a model that fits a budget."""
