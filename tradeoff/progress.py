"""Progress bars for terminals and for notebooks with or without ipywidgets."""

import warnings

with warnings.catch_warnings():
    # Without ipywidgets a notebook shows a bar of text, which needs no warning.
    warnings.filterwarnings("ignore", "IProgress not found")
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
