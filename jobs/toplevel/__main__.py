"""Runs the ``captionbeam`` command: ``python -m captionbeam NAME ...``."""

import sys

from captionbeam.jobs.cli import main

sys.exit(main())
