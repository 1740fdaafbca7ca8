"""The demo's data: drawn scenes with captions."""
