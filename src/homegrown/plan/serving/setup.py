"""What is served and how: traffic, precision, speculation, the layout of a pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from homegrown.config.errors import ConfigError

Dtype = Literal["bf16", "fp8", "int8", "fp4"]
Exchange = Literal["dispatch", "replicated"]

WIDTH = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5 + 1 / 16}
"""Bytes of a number; four-bit ones have a scale of a byte for sixteen of them."""


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Requests alike: tokens of the prompt, tokens of the answer, and their share of all requests.

    Attributes:
        hit_rate: share of the prompt whose keys are found in a cache.
    """

    input: float
    output: float
    share: float = 1.0
    hit_rate: float = 0.0

    def __post_init__(self) -> None:
        _positive("traffic.input", self.input, "tokens of a prompt")
        _positive("traffic.output", self.output, "tokens of an answer")
        _positive("traffic.share", self.share, "a share of the requests")
        if not 0 <= self.hit_rate < 1:
            raise ConfigError(
                f"traffic.hit_rate = {self.hit_rate:g}: must be at least 0 and below 1, a share of the prompt's tokens"
            )

    @property
    def missed(self) -> float:
        """Tokens of the prompt that are computed."""
        return self.input * (1 - self.hit_rate)

    def context(self, spread: float = 0.0) -> float:
        """Keys that an answer's tokens see, on average.

        Half of the answer is there on average if answers are alike; long ones are met more often the more lengths
        differ, by 1 + the square of their deviation over mean (the inspection paradox).
        """
        return self.input + self.output * (1 + spread**2) / 2


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """A mix of requests.

    Attributes:
        live: requests of uneven length that arrive at random, not equal ones that never stop coming: pools keep
            room for that, and devices that work in step wait for the fullest one.
    """

    mix: tuple[Requests, ...]
    live: bool = True

    def __post_init__(self) -> None:
        if not self.mix:
            raise ConfigError("traffic.mix = (): must have at least one kind of request")

    def mean(self, name: Literal["input", "output", "missed"]) -> float:
        """Tokens of a request, on average."""
        whole = sum(kind.share for kind in self.mix)
        return sum(kind.share * float(getattr(kind, name)) for kind in self.mix) / whole

    @property
    def hit_rate(self) -> float:
        """Share of all prompts' tokens that are found."""
        return 1 - self.mean("missed") / self.mean("input")

    def decoding(self, spread: float = 0.0) -> tuple[tuple[float, float], ...]:
        """Shares of the requests that are being answered at a moment, and the keys that each sees.

        Args:
            spread: deviation over mean of lengths.
        """
        whole = sum(kind.share * kind.output for kind in self.mix)
        return tuple((kind.share * kind.output / whole, kind.context(spread)) for kind in self.mix)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Number formats of inference.

    Attributes:
        weights, experts: of dense weights, and of the experts'; both are what products are computed in.
        keys: of cached keys and values. core: what attention is computed in.
        dispatch: of tokens on their way to experts; back they are bf16. index: of the indexer's keys and scores.
        tables: of n-gram tables and embeddings.
    """

    weights: Dtype = "fp8"
    experts: Dtype | None = None
    keys: Dtype = "bf16"
    core: Dtype = "bf16"
    dispatch: Dtype = "fp8"
    index: Dtype = "fp8"
    tables: Dtype | None = None

    @property
    def expert_weights(self) -> Dtype:
        """Of the experts' weights, those of the others if not given."""
        return self.experts or self.weights

    @property
    def table_weights(self) -> Dtype:
        """Of n-gram tables, those of the other weights if not given."""
        return self.tables or self.weights


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """Tokens that a draft head guesses and the model checks in one step.

    Attributes:
        steps: tokens guessed; 0 guesses none.
        acceptance: probability that a guess is right if those before it are.
    """

    steps: int = 0
    acceptance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.steps <= 16:
            raise ConfigError(f"speculation.steps = {self.steps}: must be from 0 (none) to 16")
        if not 0 <= self.acceptance <= 1:
            raise ConfigError(f"speculation.acceptance = {self.acceptance:g}: must be from 0 to 1, a probability")

    @property
    def accepted(self) -> float:
        """Tokens of a step, on average: 1 + a + a^2 + ... (arXiv 2211.17192, equation 1)."""
        return sum(self.acceptance**guess for guess in range(self.steps + 1))


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Layout of one instance: devices that share one copy of the model.

    Attributes:
        devices: of the instance. tp: of them that share the heads and the keys' requests; devices / tp groups have
            requests of their own (attention data parallelism).
        ep: devices over which experts are spread; 0 takes all of the instance.
        spares: copies of busy experts beside the experts.
        exchange: `dispatch` sends tokens to their experts' devices and back; `replicated` has every token on every
            device of a tensor-parallel instance, which computes its own experts' part before one all-reduce.
        zero_aware: tokens are not sent to zero-computation experts.
        overlap: traffic of experts hides behind what does not need it: the dense path of shortcut-connected experts
            (single-batch overlap), or the other one of two micro-batches.
        micro_batches: 1 or 2; 0 takes whichever is quicker.
        chunk: tokens of a prefill step of one group.
        memory_share: of the device's memory for weights and keys.
        index_everywhere: index keys are allocated for all sublayers, also those that share another's.
    """

    devices: int
    tp: int = 1
    ep: int = 0
    spares: int = 0
    exchange: Exchange = "dispatch"
    zero_aware: bool = True
    overlap: bool = True
    micro_batches: Literal[0, 1, 2] = 0
    chunk: int = 16384
    memory_share: float = 0.9
    index_everywhere: bool = False

    def __post_init__(self) -> None:
        for name in ("devices", "tp", "chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"pool.{name} = {getattr(self, name)}: must be at least 1")
        if self.devices % self.tp:
            raise ConfigError(f"pool.tp = {self.tp}: must divide the instance's {self.devices} devices")
        if self.ep < 0 or self.devices % self.experts_over:
            raise ConfigError(f"pool.ep = {self.ep}: must divide the instance's {self.devices} devices")
        if self.spares < 0:
            raise ConfigError(f"pool.spares = {self.spares}: must be at least 0, copies of experts")
        if self.exchange == "replicated" and self.tp != self.devices:
            raise ConfigError(
                f"pool.exchange = 'replicated': needs every token on every device, tp = {self.devices}, not {self.tp}"
            )
        if not 0 < self.memory_share <= 1:
            raise ConfigError(f"pool.memory_share = {self.memory_share:g}: must be above 0 and at most 1")

    @property
    def experts_over(self) -> int:
        """Devices over which experts are spread."""
        return self.ep or self.devices

    @property
    def groups(self) -> int:
        """Groups with requests of their own."""
        return self.devices // self.tp


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A deployment whose figures are asked for; a pool that is absent has none.

    Attributes:
        batch: requests that each decode group answers at once; 0 takes the most that `tpot` allows.
        use: share of the prefill pool's throughput in use; 0 takes the most that `ttft` allows.
        ttft, tpot: seconds to the first token, and of each further one, at most; 0 sets no bound.
        devices: with no pool given, the decode instance's layout is the best of at most so many devices for `tpot`.
        per: devices that figures per unit are of: a node's, or the dies of a package.
        usd_hour: of a device; 0 takes the chip's rental.
    """

    traffic: Traffic
    prefill: Pool | None = None
    decode: Pool | None = None
    precision: Precision = field(default_factory=Precision)
    speculation: Speculation = field(default_factory=Speculation)
    batch: float = 0.0
    use: float = 0.0
    ttft: float = 0.0
    tpot: float = 0.0
    devices: int = 0
    per: int = 1
    usd_hour: float = 0.0

    def __post_init__(self) -> None:
        for name in ("batch", "ttft", "tpot", "usd_hour"):
            if getattr(self, name) < 0:
                raise ConfigError(f"setup.{name} = {getattr(self, name):g}: must be at least 0")
        if not 0 <= self.use < 1:
            raise ConfigError(f"setup.use = {self.use:g}: must be at least 0 and below 1, a share of the pool")
        if self.per < 1:
            raise ConfigError(f"setup.per = {self.per}: must be at least 1, the devices of a unit")
        if self.prefill is None and self.decode is None and not self.devices:
            raise ConfigError("setup: needs a prefill pool, a decode pool, or devices to find a decode layout for")
        if self.devices and (self.prefill or self.decode or not self.tpot):
            raise ConfigError(f"setup.devices = {self.devices}: is for setups with tpot and without pools")
        if self.decode is not None and not (self.batch or self.tpot):
            raise ConfigError(
                "setup.batch = 0: a decode pool needs a batch, or a time per token to find the largest for"
            )


def _positive(name: str, value: float, what: str) -> None:
    if not value > 0:
        raise ConfigError(f"{name} = {value:g}: must be above 0, {what}")
