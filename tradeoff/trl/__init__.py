"""TRL scripts made joint: needs the extra ``llm`` and the package trl.

The public names are imported when first used; ``__init__.pyi`` lists them.
"""

from typing import Any

import lazy_loader

from tradeoff.errors import InputError

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _public(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"tradeoff.trl needs the package {error.name}, which is not installed",
            remedy="Install it: pip install 'tradeoff[llm]' trl.",
        ) from error
