"""One step, many steps, and what may go wrong between them."""
