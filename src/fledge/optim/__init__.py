"""How weights move: parameter groups and the schedule."""
