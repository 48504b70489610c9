"""Run the command line by ``python -m tradeoff.cli``, as launchers of many processes do."""

from tradeoff.cli.program import main

if __name__ == "__main__":
    main()
