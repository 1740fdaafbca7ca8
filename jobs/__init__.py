"""One command per file: it parses options, runs one pipeline or one training job, and reports."""
