"""Every method on one scale: problems whose best trade-offs are certified, at equal cost.

>>> from tradeoff.arena import board
>>> found = board(["mix+pcgrad"], ["middle"], folder="out/arena")  # doctest: +SKIP
>>> found.table()  # doctest: +SKIP
"""

from tradeoff.extras import require

require("study")

from tradeoff.arena.board import Board, board  # noqa: E402
from tradeoff.arena.contenders import contenders, left_out  # noqa: E402
from tradeoff.arena.instances import SUITE, Instance, instance  # noqa: E402

__all__ = ["SUITE", "Board", "Instance", "board", "contenders", "instance", "left_out"]
