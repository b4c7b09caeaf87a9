"""Optimizers: Muon on hidden matrices, AdamW on the rest, schedules, and growth of a model by stacking."""

from homegrown.optim.groups import Group, group_of
from homegrown.optim.growth import repeat_layers, stack_layers
from homegrown.optim.schedule import lr_factor

__all__ = ["Group", "group_of", "lr_factor", "repeat_layers", "stack_layers"]
