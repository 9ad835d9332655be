"""``python -m jaxmdwarf``: the command line."""

import sys

from jaxmdwarf.cli import main

if __name__ == "__main__":
    sys.exit(main())
