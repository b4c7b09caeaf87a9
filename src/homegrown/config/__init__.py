"""Typed configuration: dataclasses, model presets (TOML), strict loading. Imports no torch."""

from homegrown.config.errors import ConfigError, DeviceError, UsageError, UserError
from homegrown.config.files import (
    build,
    load_preset,
    overlay,
    preset_names,
    preset_table,
    read_toml,
    to_table,
    to_toml,
)
from homegrown.config.model import (
    ModelConfig,
    MtpConfig,
    NgramConfig,
    RopeConfig,
    SparseConfig,
    require,
)
from homegrown.config.train import (
    CheckpointConfig,
    ControllerConfig,
    DataConfig,
    EvalConfig,
    GrowthConfig,
    GuardConfig,
    LossConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
)

__all__ = [
    "CheckpointConfig",
    "ConfigError",
    "ControllerConfig",
    "DataConfig",
    "DeviceError",
    "EvalConfig",
    "GrowthConfig",
    "GuardConfig",
    "LossConfig",
    "ModelConfig",
    "MtpConfig",
    "NgramConfig",
    "OptimConfig",
    "RopeConfig",
    "ScheduleConfig",
    "SparseConfig",
    "TrainConfig",
    "UsageError",
    "UserError",
    "build",
    "load_preset",
    "overlay",
    "preset_names",
    "preset_table",
    "read_toml",
    "require",
    "to_table",
    "to_toml",
]
