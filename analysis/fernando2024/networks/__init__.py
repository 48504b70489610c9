"""Figures on small networks, with the last layer or all layers trained."""
