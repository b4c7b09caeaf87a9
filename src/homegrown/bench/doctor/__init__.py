"""The self-test of a node: is this machine able to train, and how fast could it be?

Every process examines its own device (what it is, how fast it multiplies and moves memory, whether the kernels that
training uses are right and repeat themselves bit for bit), all of them together the collectives. What the processes
found is compared: a rank that computes other bits than its equals is named.
"""

from homegrown.bench.doctor.examine import Plan, examine
from homegrown.bench.doctor.report import Finding, Report

__all__ = ["Finding", "Plan", "Report", "examine"]
