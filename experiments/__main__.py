"""``python -m experiments NAME``: the same as ``jaxmdwarf run NAME``."""

import sys

from jaxmdwarf.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
