"""What happened: events, and those who listen to them."""
