"""`python -m analysis NAME|all [--fast]`: draw figures and store their numbers."""

from tradeoff.cli import figures_command

if __name__ == "__main__":
    figures_command()
