"""The commands of `captionbeam store`, by what they do to its snapshots."""
