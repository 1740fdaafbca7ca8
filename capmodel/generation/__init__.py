"""How captions are written: options, the search, sampling. ``captionbeam.capmodel.generate`` is the way in."""
