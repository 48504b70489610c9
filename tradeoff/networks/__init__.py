"""Small torch policies and the tiny language model: the scale between convex problems and LLMs."""

from tradeoff.extras import require

require("nets")
