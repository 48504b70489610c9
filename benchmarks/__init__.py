"""Timings of the fast paths, each as a ratio to a reference measured in the same run."""
