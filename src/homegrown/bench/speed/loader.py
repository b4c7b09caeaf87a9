"""One load in a process of its own: `python -m homegrown.bench.speed.loader HOW DIR THREADS` prints JSON figures.

HOW is `homegrown`, `transformers`, or `map`: to map the weights' files into memory and read every byte once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from homegrown import device as devices

CHUNK = 1 << 22


def main(how: str, folder: Path, threads: int) -> None:
    """Load and tell: seconds, processor seconds, and peak bytes before and after."""
    torch.set_num_threads(threads)
    load = _loaders()[how](folder)
    before = _resident()
    began, processor = time.perf_counter(), time.process_time()
    kept = load()
    touched = _touch(kept)
    figures = {
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - processor,
        "before_bytes": before,
        "peak_bytes": devices.peak_memory(torch.device("cpu")),
    }
    del kept, touched
    sys.stdout.write(json.dumps(figures) + "\n")


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a directory's weights."""
    return sorted(folder.glob("*.safetensors"))


def _touch(loaded: object) -> list[torch.Tensor]:
    """Read every weight once: a loader may only have promised to."""
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    if not isinstance(model, torch.nn.Module):
        return []
    return [tensor.detach().reshape(-1).view(torch.int16).amax() for tensor in model.parameters()]


def _resident() -> int:
    """Bytes of memory this process holds; the most it ever held where the system does not say."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return devices.peak_memory(torch.device("cpu"))
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _loaders() -> dict[str, Callable[[Path], Callable[[], Any]]]:
    """By name, what imports all that is needed and returns what is timed."""
    return {"homegrown": _ours, "transformers": _peer, "map": _map}


def _ours(folder: Path) -> Callable[[], Any]:
    from homegrown import hub

    return lambda: hub.load(folder, "cpu")


def _peer(folder: Path) -> Callable[[], Any]:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # Its modules are imported when they are first named, and that is not loading.
    kind = transformers.LongcatFlashForCausalLM
    return lambda: kind.from_pretrained(folder, dtype="auto")


def _map(folder: Path) -> Callable[[], Any]:
    return lambda: sum(_read(path) for path in weight_files(folder))


def _read(path: Path) -> int:
    """Map a file and read all of it, a piece at a time: what a loader that copies nothing twice would do."""
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    whole = mapped[: len(mapped) // 8 * 8].view(np.uint64)
    return int(sum(int(whole[start : start + CHUNK].max(initial=0)) & 1 for start in range(0, len(whole), CHUNK)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
