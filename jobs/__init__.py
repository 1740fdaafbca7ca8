"""One command a file: parse options, build one pipeline or launch one training job, report."""
