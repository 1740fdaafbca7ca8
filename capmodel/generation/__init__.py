"""How captions are written: options, the search, sampling. Start reading at ``generate``."""
