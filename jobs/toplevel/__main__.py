"""Runs the ``captionbeam`` command: ``python -m captionbeam NAME ...``."""

import sys

from captionbeam.jobs.cli import run_process

sys.exit(run_process())
