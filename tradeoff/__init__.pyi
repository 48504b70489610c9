"""The public names, and where each is defined."""

from .conflict import (
    Analysis as Analysis,
    analyse as analyse,
)
from .convex import (
    Front as Front,
    LogLinear as LogLinear,
    Minimum as Minimum,
    Quadratic as Quadratic,
    StepSize as StepSize,
    Trajectories as Trajectories,
    binary_example as binary_example,
    minimise as minimise,
    minimise_max_gap as minimise_max_gap,
    pareto_front as pareto_front,
    random_log_linear as random_log_linear,
    random_quadratic as random_quadratic,
    simulate as simulate,
    trajectories as trajectories,
)
from .convex.text import (
    text_problem as text_problem,
)
from .data import (
    Rows as Rows,
    read_preferences as read_preferences,
    read_sft as read_sft,
)
from .errors import (
    InputError as InputError,
)
from .methods import (
    Method as Method,
)
from .schedules import (
    Alright as Alright,
    Constrained as Constrained,
    Maxright as Maxright,
    Mix as Mix,
    Rounds as Rounds,
    Schedule as Schedule,
    Sequential as Sequential,
    Stages as Stages,
)
from .scores import (
    Interval as Interval,
    interval as interval,
    paired_difference as paired_difference,
)
from .theory.checked import (
    Checked as Checked,
)

__version__: str
