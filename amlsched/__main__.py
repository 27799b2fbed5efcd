"""`python -m amlsched`, the same as `amlsched`."""

import sys

from amlsched.cli import main

if __name__ == "__main__":
    sys.exit(main())
