"""Option groups of the commands."""
