"""The program that Google's Flex Template launcher runs; flex_template.json defines its parameters."""

import sys

from captionbeam.jobs.run_on.flex import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
