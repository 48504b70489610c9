"""Forecasts of training, judged on a grid of runs of a tiny language model."""
