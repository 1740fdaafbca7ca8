"""A Beam plugin for local worker processes that filters captionbeam errors from their standard error."""

import sys

from captionbeam.pipelines.runners.log_filter import Unmarked

sys.stderr = Unmarked(sys.stderr)
