"""Fernando et al. (2024), arXiv 2410.15483, recomputed: figures by chapter, claims, prose."""
