"""Runs pipelines on Beam's runners: checks of their flags, Spark and Flink clusters, local processes, log filters."""
