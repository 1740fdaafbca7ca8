"""Launches, watches and previews bulk jobs."""
