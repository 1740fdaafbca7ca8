"""Beam runners: their flags, clusters, local processes, logs."""
