"""Small and pretrained language models on real text."""
