"""One module a verb: EXAMPLES, add_arguments(parser), run(args)."""
