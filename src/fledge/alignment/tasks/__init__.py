"""Built-in tasks: problems that a program makes and checks, for small models and without a network."""
