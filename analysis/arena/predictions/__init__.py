"""Predictions that were written down before the run, and what became of them."""
