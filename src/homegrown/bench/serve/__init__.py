"""A server under load: what its clients see, against an objective, against peers, against the engine alone.

The client speaks OpenAI's two completion APIs to any server. Its figures have the names that vLLM's `bench serve` gives
them, so that tools which read those read these.
"""

from homegrown.bench.serve.load import Load
from homegrown.bench.serve.presets import SCENARIOS, Scenario
from homegrown.bench.serve.run import ServePlan, run_serve, turns, write

__all__ = ["SCENARIOS", "Load", "Scenario", "ServePlan", "run_serve", "turns", "write"]
