"""`python -m analysis NAME|all [--fast]`: draw figures and store their numbers."""

import sys

from tradeoff.cli import main

if __name__ == "__main__":
    main(["figures", *sys.argv[1:]])
