"""The machinery of a dossier, which knows no paper: it runs, stores, judges and renders."""
