"""How captions are written: options, the search, sampling. ``capmodel.generate`` is the way in."""
