"""``python -m dscnet``: the command line."""

import sys

from dscnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
