"""Options of the commands, in groups."""
