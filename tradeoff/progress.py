"""Progress bars: one kind for terminals and notebooks, with ipywidgets or without."""

import warnings

with warnings.catch_warnings():
    # Without ipywidgets a notebook gets a bar of text; that is as good, and no reason to warn.
    warnings.filterwarnings("ignore", "IProgress not found")
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
