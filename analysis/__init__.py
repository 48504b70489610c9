"""One file per figure: `main(out, fast=False)` draws it and returns the numbers it shows."""
