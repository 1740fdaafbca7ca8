"""Rows and columns of lists: strict CSV, and which columns hold URIs and ids."""
