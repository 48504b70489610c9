"""The arena's dossier: every method on convex problems whose best trade-offs are certified."""
