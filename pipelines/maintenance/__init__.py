"""Keeping a store: its history, checks, exports, and what makes it smaller. Needs neither Beam nor torch."""
