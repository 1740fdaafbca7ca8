"""The demo's scenes: drawn pictures with captions."""
