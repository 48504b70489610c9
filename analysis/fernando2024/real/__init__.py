"""Figures on small and pretrained language models, trained on real text."""
