"""Silent data corruption: finding devices that compute, keep or send wrong bits, and naming them."""

from homegrown.train.corruption.checks import Checks
from homegrown.train.corruption.fault import CorruptionError, Suspicion, leave_verdicts

__all__ = ["Checks", "CorruptionError", "Suspicion", "leave_verdicts"]
