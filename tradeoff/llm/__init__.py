"""Joint post-training of Hugging Face causal language models: needs the extra ``llm``.

The public names are imported when first used; ``__init__.pyi`` lists them.
"""

from typing import Any

import lazy_loader

# Before accelerate and transformers, whose own first import of bars warns in a notebook.
import tradeoff.progress  # noqa: F401
from tradeoff.extras import explained, require

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _public(name)
    except ModuleNotFoundError as error:
        require("llm")
        raise explained(error) from error
