"""Compare methods on your model and your rows: methods x weights x seeds, one table, one page.

`compare` trains what is missing; `of_runs` compares runs that exist. Both return a `Comparison`.
"""

from tradeoff.compare.comparison import Comparison, of_runs
from tradeoff.compare.grid import Planned, grid
from tradeoff.compare.work import compare

__all__ = ["Comparison", "Planned", "compare", "grid", "of_runs"]
