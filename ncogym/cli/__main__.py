"""``python -m ncogym.cli``."""

import sys

from ncogym.cli import main

if __name__ == "__main__":
    sys.exit(main())
