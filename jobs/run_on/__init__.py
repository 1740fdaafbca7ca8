"""Where a job's pipeline runs: runners settled and checked before anything is written, Dataflow above all."""
