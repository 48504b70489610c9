"""The public names of joint post-training, and where each is defined."""

from .callbacks import (
    Callback as Callback,
)
from .config import (
    Experiment as Experiment,
    Lora as Lora,
    TrainConfig as TrainConfig,
    read_experiment as read_experiment,
)
from .defects import (
    Defects as Defects,
)
from .toml import (
    write_experiment as write_experiment,
)
from .trainer import (
    JointTrainer as JointTrainer,
    TrainResult as TrainResult,
)
