"""`python -m amlsched`, the same as `amlsched`."""

import sys

try:
    from amlsched.cli import main
except (ImportError, AttributeError) as error:  # the working folder comes first on sys.path here
    from amlsched._surroundings import hidden

    if not (hint := hidden(error)):
        raise
    sys.exit(f"amlsched: error: {type(error).__name__}: {error} ({hint})")

if __name__ == "__main__":
    sys.exit(main())
