"""Figures on the time and memory of an update."""
