"""The convex laboratory: problems whose optima and fronts carry certificates."""
