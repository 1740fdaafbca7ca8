"""A plugin of Beam's worker processes on this machine: their standard error without errors of ours."""

import sys

from captionbeam.pipelines.runners.log_filter import Unmarked

sys.stderr = Unmarked(sys.stderr)
