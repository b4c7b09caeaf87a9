"""Passes of few rows on a CPU, in C: one call a pass instead of hundreds of operators.

The sources are compiled with the system's compiler at first use (`build`); `structures` are theirs in Python;
`homegrown.model.native` gives them a model. They are optional: without a compiler PyTorch computes the same.
"""

from homegrown.ops.native.build import NativeError, library
from homegrown.ops.native.team import Team, team_of

__all__ = ["NativeError", "Team", "library", "team_of"]
