"""Components that reduce features."""
