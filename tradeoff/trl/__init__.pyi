"""The public names of what takes TRL scripts over, and where each is defined."""

from .arguments import (
    train_config as train_config,
)
from .callbacks import (
    HubCallbacks as HubCallbacks,
)
from .files import (
    read_yaml as read_yaml,
)
from .joint import (
    joint_trainer as joint_trainer,
)
from .trainer import (
    ScriptTrainer as ScriptTrainer,
)
