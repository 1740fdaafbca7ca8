"""The bulk job: find, skip what is done, compare, plan, publish."""
