"""A tiny language model on synthetic tasks."""
