"""Post-training as two objectives and a rule that decides which of them each update follows.

The public names are imported when first used, so that ``import tradeoff`` is fast.
``__init__.pyi`` lists them, for type checkers and for this module.
"""

from typing import Any

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tradeoff")
    return _public(name)
