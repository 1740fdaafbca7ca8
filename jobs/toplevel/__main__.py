"""``python -m captionbeam NAME ...``: the command ``captionbeam``."""

import sys

from captionbeam.jobs.cli import main

sys.exit(main())
