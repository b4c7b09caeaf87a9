"""A small real distributed training program for the supervisor to watch: deterministic whatever the number of workers.

    python toy.py RUN --steps 40 [--transport gloo|sockets] [--pace SECONDS] [--save-every N]

Every step, each rank computes its share of a fixed number of leaf gradients; all ranks gather all leaves and add them
in a fixed order, so that the bits do not depend on the world size. Rank 0 keeps metrics.jsonl and checkpoints; every
rank resumes from the newest checkpoint. It uses the flight record as training does. `sockets` gathers over plain TCP
with rank 0 in the middle, which starts twenty times as fast as torch and fails alike when a rank is gone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

from homegrown.config.atomic import atomic_path
from homegrown.ledger import MetricsWriter
from homegrown.parallel import flight
from homegrown.parallel.verdict import CORRUPT, leave_verdict

LEAVES = 12
WIDTH = 64


class Sockets:
    """Gathers bytes: every rank sends its own to rank 0 and gets all of them back."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank = rank
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        self.peers: list[socket.socket] = []
        if rank:
            self.peers = [_dial(address)]
            self.peers[0].sendall(struct.pack("!I", rank))
            return
        with socket.create_server(("", address[1])) as server:
            found = {}
            while len(found) < world - 1:
                peer, _ = server.accept()
                found[struct.unpack("!I", _exactly(peer, 4))[0]] = peer
        self.peers = [found[other] for other in sorted(found)]

    def gather(self, mine: bytes) -> list[bytes]:
        if self.rank:
            _say(self.peers[0], mine)
            return [_hear(self.peers[0]) for _ in range(struct.unpack("!I", _exactly(self.peers[0], 4))[0])]
        parts = [mine, *map(_hear, self.peers)]
        for peer in self.peers:
            peer.sendall(struct.pack("!I", len(parts)))
            for part in parts:
                _say(peer, part)
        return parts


class Gloo:
    """The same over torch.distributed."""

    def __init__(self, rank: int, world: int) -> None:
        from datetime import timedelta

        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=timedelta(seconds=120))
        self.dist, self.torch, self.world = dist, torch, world

    def gather(self, mine: bytes) -> list[bytes]:
        own = self.torch.frombuffer(bytearray(mine), dtype=self.torch.uint8)
        all_ = self.torch.empty(self.world * len(mine), dtype=self.torch.uint8)
        self.dist.all_gather_into_tensor(all_, own)
        data = all_.numpy().tobytes()
        return [data[at : at + len(mine)] for at in range(0, len(data), len(mine))]


def _dial(address: tuple[str, int]) -> socket.socket:
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(address, timeout=30)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _exactly(peer: socket.socket, size: int) -> bytes:
    peer.settimeout(None)
    data = b""
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part:
            raise ConnectionError("a peer has gone")
        data += part
    return data


def _hear(peer: socket.socket) -> bytes:
    return _exactly(peer, struct.unpack("!I", _exactly(peer, 4))[0])


def _say(peer: socket.socket, data: bytes) -> None:
    peer.sendall(struct.pack("!I", len(data)) + data)


def gradient(leaf: int, step: int, weights: list[float]) -> list[float]:
    """A made-up gradient of a leaf of the step's data."""
    seed = hashlib.sha256(f"{step}:{leaf}".encode()).digest()
    return [weight * 0.1 + (seed[index % 32] - 127.5) / 1000 for index, weight in enumerate(weights)]


def load(run: Path) -> tuple[int, list[float]]:
    """The newest checkpoint, or the start."""
    found = sorted((run / "checkpoints").glob("step-*.json"))
    if not found:
        return 0, [index / WIDTH for index in range(WIDTH)]
    state = json.loads(found[-1].read_text())
    return state["step"], [float.fromhex(text) for text in state["weights"]]


def save(run: Path, step: int, weights: list[float], slowly: float) -> None:
    """Write a checkpoint beside and rename it; `slowly` holds the window open in which a fault can meet it."""
    text = json.dumps({"step": step, "weights": [weight.hex() for weight in weights]})
    with atomic_path(run / "checkpoints" / f"step-{step:06d}.json") as temporary, temporary.open("w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        time.sleep(slowly)
        file.write(text[len(text) // 2 :])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--transport", choices=("gloo", "sockets"), default="sockets")
    parser.add_argument("--pace", type=float, default=0.02, help="seconds of computing per leaf")
    parser.add_argument("--save-every", type=int, default=5)
    parser.add_argument("--slow-save", type=float, default=0.05)
    parser.add_argument("--corrupt", default="", help="RANK:STEP:ATTEMPT at which a rank finds itself corrupt")
    arguments = parser.parse_args()
    run, rank, world = arguments.run, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    attempt = int(os.environ[flight.ATTEMPT])
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    signal.signal(signal.SIGINT, lambda number, frame: stop.append(number))

    flight.open(flight.record_path(run, rank), rank)
    transport = (Gloo if arguments.transport == "gloo" else Sockets)(rank, world)
    everybody = tuple(range(world))

    def gather(mine: bytes, op: str = "all_gather") -> list[bytes]:
        flight.enter(op, "world", everybody, len(mine))
        parts = transport.gather(mine)
        flight.leave()
        return parts

    flight.phase("load")
    step, weights = load(run)
    gather(struct.pack("!Q", step), "barrier")  # nobody saves before all have loaded
    metrics = MetricsWriter(run / "metrics.jsonl") if rank == 0 else None
    if metrics is not None:
        metrics.rewind(step if step else -1)
    while step < arguments.steps:
        step += 1
        flight.step(step)
        mine = range(rank, LEAVES, world)
        leaves = []
        for leaf in mine:
            time.sleep(arguments.pace)
            leaves.append(struct.pack(f"!{WIDTH}d", *gradient(leaf, step, weights)))
        if arguments.corrupt == f"{rank}:{step}:{attempt}":
            leave_verdict(run, rank, rank, "recomputing leaf 0 gave other bits")
            return CORRUPT
        flag = struct.pack("!I", stop[0] if stop else 0)
        parts = gather(flag + b"".join(leaves))
        asked = max(struct.unpack("!I", part[:4])[0] for part in parts)
        by_leaf = {}
        for other, part in enumerate(parts):
            for place, leaf in enumerate(range(other, LEAVES, world)):
                start = 4 + place * 8 * WIDTH
                by_leaf[leaf] = struct.unpack(f"!{WIDTH}d", part[start : start + 8 * WIDTH])
        total = [0.0] * WIDTH
        for leaf in range(LEAVES):
            total = [sofar + value for sofar, value in zip(total, by_leaf[leaf], strict=True)]
        weights = [weight - 0.01 * value for weight, value in zip(weights, total, strict=True)]
        norm = sum(value * value for value in total) ** 0.5
        if metrics is not None:
            metrics.write("train", step=step, loss=sum(weights), grad_norm=norm)
        if asked or step % arguments.save_every == 0 or step == arguments.steps:
            flight.phase("save")
            if rank == 0:
                save(run, step, weights, arguments.slow_save)
            gather(b"saved", "barrier")
        if asked:
            return 128 + asked
    flight.phase("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
