"""The command line: `tradeoff advise | analyse | front | train | reproduce | ...`.

A command is a file, or a few that belong together; every one takes ``--json`` for machines.
Libraries are imported inside the commands, so that ``tradeoff --help`` answers at once.
"""

from tradeoff.cli.program import app, main

__all__ = ["app", "main"]
