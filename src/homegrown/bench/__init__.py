"""Measurements against physical limits and peers: what a step costs, what it could cost, what others take for it.

Every benchmark measures its contestants and the machine's limits interleaved in one run, so that ratios survive a busy
or throttled machine, and refuses to compare implementations that do not compute the same.
"""

from homegrown.bench.interleave import Stopwatch, interleave
from homegrown.bench.record import Record, Spread
from homegrown.bench.shapes import SHAPES, Shape
from homegrown.bench.train import MismatchError, TrainPlan, run_train

__all__ = ["SHAPES", "MismatchError", "Record", "Shape", "Spread", "Stopwatch", "TrainPlan", "interleave", "run_train"]
