"""Serving: prefill and decode pools, what they cost, and how quick they are.

`serve_plan` finds pools for traffic and targets; `serving_figures` and `serving_replay` give the figures of a
deployment that is described; `read_setup` reads its description.
"""

from homegrown.plan.serving.figures import serving_figures
from homegrown.plan.serving.plan import ServePlan, Targets, serve_plan
from homegrown.plan.serving.reading import read_setup
from homegrown.plan.serving.replay import serving_replay
from homegrown.plan.serving.search import Served
from homegrown.plan.serving.setup import Pool, Precision, Requests, Setup, Speculation, Traffic

__all__ = [
    "Pool",
    "Precision",
    "Requests",
    "ServePlan",
    "Served",
    "Setup",
    "Speculation",
    "Targets",
    "Traffic",
    "read_setup",
    "serve_plan",
    "serving_figures",
    "serving_replay",
]
