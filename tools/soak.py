"""Soak a running server and see whether it loses anything: `python tools/soak.py URL --pid PID --seconds 3600`.

A few clients send one request after another, of all sorts: both dialects, streams, clients that leave, bodies that are
wrong, forced tool calls, prompts that just fit and prompts that do not, bursts. Now and then all of them pause; when
nothing is left running, the server's processes are looked at: memory, open files, threads, pages of the key cache in
use. The exit code is 1 if an answer was not what that sort of request is to get, or if something was lost.

Runs on Linux (it reads /proc), with the extra `dev` (it uses httpx).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from soak_traffic import SORTS, Maker

WARM = 0.3
"""Part of the looks that come too early to say anything: caches fill up, libraries are loaded."""
SLACK_MB, KEPT_KB = 16.0, 2.0
"""Memory may grow by so much after that, at all and with each request: allocators keep what they once had, and a server
remembers encoded prompts and answers (the soak's are all new) up to a bound that it does not reach in an hour."""
QUIET_S = 30.0
"""How long what was cut off may take to end."""
BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting", "homegrown:admitted")
"""Metrics that are 0 when nothing is left running."""


@dataclass(frozen=True)
class Look:
    """The server while it is idle. Memory is in megabytes, resident, of each process; files and threads are of all."""

    seconds: float
    requests: int
    memory: dict[int, float]
    files: int
    threads: int
    pages_used: float
    pages_cached: float
    admitted: float


@dataclass
class Soak:
    """One run.

    Args:
        url: of the server.
        pid: of its process.
        maker: makes what is sent.

    Attributes:
        counts: answers, by sort of request and status.
        surprises: answers that were not what they should be.
        looks: what was seen in the pauses.
    """

    url: str
    pid: int
    maker: Maker
    counts: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    async def run(self, seconds: float, clients: int, every: float) -> None:
        """Send requests for so long, with a look at the server now and then."""
        began = time.monotonic()
        await self._look(began)
        while time.monotonic() < began + seconds:
            until = min(time.monotonic() + every, began + seconds)
            async with self._http() as http:
                await asyncio.gather(*(self._client(http, until) for _ in range(clients)))
            await self._look(began)

    def _http(self) -> httpx.AsyncClient:
        """Its connections end with it, or they would be taken for files that the server keeps open."""
        return httpx.AsyncClient(base_url=self.url, timeout=120, limits=httpx.Limits(max_connections=200))

    async def _client(self, http: httpx.AsyncClient, until: float) -> None:
        while time.monotonic() < until:
            kind = self.maker.rng.choice(list(SORTS))
            expected, send = SORTS[kind]
            try:
                status = await send(self.maker, http)
            except httpx.HTTPError as error:
                status = -1
                self.surprises.append(f"{kind}: {error!r}")
            self.counts[f"{kind} {status}"] += 1
            if status >= 0 and status not in expected:
                self.surprises.append(f"{kind}: status {status}")

    async def _look(self, began: float) -> None:
        end = time.monotonic() + QUIET_S
        busy = True
        while busy and time.monotonic() < end:
            await asyncio.sleep(0.3)
            async with self._http() as http:
                shown = _metrics((await http.get("/metrics")).text)
            busy = any(shown[name] for name in BUSY)
        await asyncio.sleep(0.3)
        processes = [self.pid, *_children(self.pid)]
        look = Look(
            seconds=round(time.monotonic() - began, 1),
            requests=sum(self.counts.values()),
            memory={pid: _resident_mb(pid) for pid in processes},
            files=sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in processes),
            threads=sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in processes),
            pages_used=shown["vllm:kv_cache_usage_perc"] * shown["homegrown:pages"],
            pages_cached=shown["homegrown:pages_cached"],
            admitted=shown["homegrown:admitted"],
        )
        self.looks.append(look)
        print(json.dumps(asdict(look)), file=sys.stderr, flush=True)

    def losses(self) -> list[str]:
        """What the server has lost, as sentences."""
        settled = self.looks[int(len(self.looks) * WARM) :]
        first, last = settled[0], settled[-1]
        allowed = SLACK_MB + KEPT_KB * (last.requests - first.requests) / 1024
        found = [
            f"idle after {look.seconds:.0f} s, {look.pages_used:.0f} pages and {look.admitted:.0f} requests are held"
            for look in self.looks
            if look.pages_used or look.admitted
        ]
        if set(self.looks[0].memory) != set(last.memory):
            found.append("a process was started anew")
        else:
            for pid, memory in last.memory.items():
                if memory > first.memory[pid] + allowed:
                    found.append(f"process {pid} grew from {first.memory[pid]:.0f} to {memory:.0f} MB")
        for name, before, after in (("files", first.files, last.files), ("threads", first.threads, last.threads)):
            if after > before + 2:
                found.append(f"open {name} grew from {before} to {after}")
        return found


def _metrics(text: str) -> dict[str, float]:
    """Each metric's value, without labels."""
    lines = re.findall(r"^([\w:]+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in lines}


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    direct = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return [process for child in direct for process in (child, *_children(child))]


def _resident_mb(pid: int) -> float:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return round(int(found[1]) / 1024, 1) if found else 0.0


def main() -> int:
    """Run it from the command line; the result goes to stdout as JSON."""
    parser = argparse.ArgumentParser(description="Soak a running server and see whether it loses anything.")
    parser.add_argument("url", help="of the server, such as http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, required=True, help="of the server's process")
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long (default: an hour)")
    parser.add_argument("--clients", type=int, default=4, help="clients at a time (default: 4)")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between looks (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of what is sent (default: 0)")
    given = parser.parse_args()
    (model, *_) = httpx.get(f"{given.url}/v1/models").json()["data"]
    soak = Soak(given.url, given.pid, Maker(model["id"], model["max_model_len"], random.Random(given.seed)))
    asyncio.run(soak.run(given.seconds, given.clients, given.every))
    losses = soak.losses()
    result = {
        "seconds": soak.looks[-1].seconds,
        "requests": sum(soak.counts.values()),
        "counts": dict(sorted(soak.counts.items())),
        "first": asdict(soak.looks[0]),
        "settled": asdict(soak.looks[int(len(soak.looks) * WARM)]),
        "last": asdict(soak.looks[-1]),
        "surprises": soak.surprises[:100],
        "losses": losses,
    }
    print(json.dumps(result, indent=1))
    return 1 if losses or soak.surprises else 0


if __name__ == "__main__":
    sys.exit(main())
