"""Rows and columns of lists: strict CSV, which columns hold URIs and ids, and which are kept."""
