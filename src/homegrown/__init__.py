"""Homegrown trains, publishes and runs LongCat-2.0-class language models on any accelerator PyTorch drives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "save"]

if TYPE_CHECKING:
    from homegrown.hub import load, save


def __getattr__(name: str) -> Any:
    # `import homegrown` stays instant: torch is imported with the first name that needs it.
    if name in ("load", "save"):
        import homegrown.hub

        return getattr(homegrown.hub, name)
    raise AttributeError(f"module 'homegrown' has no attribute {name!r}")
