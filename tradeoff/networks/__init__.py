"""Small torch policies and the tiny language model: the scale between convex and real."""

from tradeoff.extras import require

require("nets")
