"""Run the command line by ``python -m tradeoff``, for launchers of many processes."""

from tradeoff.cli import main

if __name__ == "__main__":
    main()
