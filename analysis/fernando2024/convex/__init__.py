"""The convex laboratory: figures on problems whose optima and fronts have certificates."""
