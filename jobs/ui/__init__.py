"""Terminal output of jobs: progress and summaries."""
