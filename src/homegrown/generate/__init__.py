"""Text from a model: sampling, cached decoding, speculation with the model's own draft head, stop texts."""

from homegrown.generate.decode import PREFILL_CHUNK, decode
from homegrown.generate.errors import GenerateError
from homegrown.generate.generation import Generation, Piece, complete, generate
from homegrown.generate.sampling import Sampler, SamplingConfig, distribution
from homegrown.generate.speculate import Acceptance, speculate
from homegrown.generate.stopping import StopTexts

__all__ = [
    "PREFILL_CHUNK",
    "Acceptance",
    "GenerateError",
    "Generation",
    "Piece",
    "Sampler",
    "SamplingConfig",
    "StopTexts",
    "complete",
    "decode",
    "distribution",
    "generate",
    "speculate",
]
