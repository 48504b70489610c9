"""Small torch policies and the tiny language model: the scale between convex and real."""
