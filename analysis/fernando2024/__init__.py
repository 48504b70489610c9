"""Fernando et al. (2024), arXiv 2410.15483: figures by chapter, claims and pages that check it."""
