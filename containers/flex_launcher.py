"""What Google's Flex Template launcher runs; its parameters are in flex_template.json."""

import sys

from captionbeam.jobs.run_on.flex import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
