"""Figures on a tiny language model, trained on synthetic tasks."""
