"""Run the command line by ``python -m tradeoff``, as launchers of many processes do."""

from tradeoff.cli import main

if __name__ == "__main__":
    main()
