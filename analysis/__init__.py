"""The dossiers of papers: ``dossier`` is the machinery, each other package is one paper."""
