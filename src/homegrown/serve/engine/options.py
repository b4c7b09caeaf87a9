"""How an engine runs."""

from __future__ import annotations

import msgspec

from homegrown.config import ConfigError, ModelConfig


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one engine, sent to the process it lives in.

    Raises:
        ConfigError: a value that cannot work (from `check`).
    """

    page_size: int = 32
    """Tokens whose keys a page holds. Only whole pages are shared between prompts."""
    pages: int = 0
    """Pages of the key cache; 0: as many as `memory` holds."""
    memory: int = 1 << 30
    """Bytes of the key cache, where `pages` is 0."""
    host_pages: int = 0
    """Pages of host memory for requests that had to make room; 0: they are computed again."""
    max_running: int = 64
    """Requests that run at once; the others wait."""
    chunk: int = 512
    """Prompt tokens in one pass, of all prompts together (in batch-invariant mode: of each)."""
    step_ms: float = 100.0
    """What a step may take while requests are being answered: how many prompt tokens join it depends on this. In
    batch-invariant mode a chunk is never cut, so that one chunk is computed however long it takes."""
    speculate: int = -1
    """Tokens that the draft head proposes at a time; 0: none; -1: as many as the model was trained for."""
    invariant: bool = False
    """A request's tokens do not depend, to the last bit, on what else runs."""
    prefix_cache: bool = True
    """Keep keys of prompts for later prompts that begin alike."""

    def check(self, config: ModelConfig) -> None:
        """Raise `ConfigError` if a model cannot be served so."""
        least = {"page_size": 1, "pages": 0, "memory": 1, "host_pages": 0, "max_running": 1, "chunk": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"engine.{name} = {getattr(self, name)}: must be at least {bound}")
        if not self.step_ms > 0:
            raise ConfigError(f"engine.step_ms = {self.step_ms}: must be above 0")
        if self.speculate < -1:
            raise ConfigError(f"engine.speculate = {self.speculate}: must be -1 (as trained), 0 (off) or more")
        if self.speculate > 0 and not config.mtp.layers:
            raise ConfigError(
                f"engine.speculate = {self.speculate}: this model has no draft head (model.mtp.layers = 0); use 0"
            )

    def drafts(self, config: ModelConfig) -> int:
        """Tokens that are proposed at a time for a model."""
        trained = config.mtp.steps if config.mtp.layers else 0
        return trained if self.speculate < 0 else self.speculate
