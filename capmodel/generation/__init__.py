"""Caption generation: options, search and sampling. The entry point is ``generate``."""
