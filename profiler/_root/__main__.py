"""`python -m boundscope`."""

import sys

from boundscope.profiler.cli import main

if __name__ == "__main__":
    sys.exit(main())
