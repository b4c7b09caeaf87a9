"""What several processes make of one machine: the training step as one process takes it and as two share it."""

from homegrown.bench.scaling.crew import Crew, CrewError
from homegrown.bench.scaling.measure import run_scaling, turns
from homegrown.bench.scaling.plan import Case, ScalingPlan, cases
from homegrown.bench.scaling.record import ScalingRecord

__all__ = ["Case", "Crew", "CrewError", "ScalingPlan", "ScalingRecord", "cases", "run_scaling", "turns"]
