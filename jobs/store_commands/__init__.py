"""The commands of `captionbeam store`, one file each (`tags.py` has three)."""
