"""Claims about training runs: what they say, what that implies, and whether all of it can be true. Imports no torch."""

from homegrown.plan.audit.audit import Audit, audit
from homegrown.plan.audit.claim import Claim
from homegrown.plan.audit.files import load, shipped

__all__ = ["Audit", "Claim", "audit", "load", "shipped"]
