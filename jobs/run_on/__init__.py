"""Where a job's pipeline runs: choosing and validating the runner before anything is written; mainly Dataflow."""
