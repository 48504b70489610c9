"""Joint training from TRL scripts: needs the extra ``trl``.

The public names are imported when first used; ``__init__.pyi`` lists them.
"""

from typing import Any

import lazy_loader

from tradeoff.extras import explained, require

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _public(name)
    except ModuleNotFoundError as error:
        require("trl")
        raise explained(error, "trl") from error
