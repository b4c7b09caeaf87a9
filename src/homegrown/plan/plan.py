"""A plan of a training run: the best layout of each stage, and what it comes to, with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from homegrown.config.errors import ConfigError
from homegrown.plan.basis import PEAK_DTYPES, basis_dtype, basis_of, utilisation
from homegrown.plan.constants import Constants
from homegrown.plan.course import Course, Leg, usual_batch
from homegrown.plan.days import PLAIN, Upkeeping, outlook
from homegrown.plan.enumerate import BATCH_SLACK, space_on
from homegrown.plan.facts import Cluster, Shape
from homegrown.plan.memory import memory
from homegrown.plan.pins import Pins
from homegrown.plan.quantity import EXPECTED, Interval, World, intervals
from homegrown.plan.results import Candidate, Memory, Plan, Stage
from homegrown.plan.search import Found, Model, search
from homegrown.plan.step import step_time

Tick = Callable[[str, float], None]
"""Told what is done at the moment, and which share of the whole plan is behind it."""
