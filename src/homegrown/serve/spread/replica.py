"""A replica's processes: the first one starts the others and runs the engine, the others run along.

They live and die together. Each of the others ends when the first does; the first gives up when another has ended, and
whoever started it (`worker.process`) starts the whole anew.

Under a launcher that sets torchrun's environment variables, on as many hosts as it takes, the ranks are there already.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from homegrown.config import UserError
from homegrown.hub.directory import TOKENIZER
from homegrown.parallel import world
from homegrown.parallel.groups import Groups
from homegrown.parallel.layout import Layout
from homegrown.serve.spread.model import SpreadModel, ranks_of
from homegrown.serve.spread.orders import end_soon, follow, lead
from homegrown.serve.spread.roles import Parts
from homegrown.serve.spread.runners import lead_runner, run_along
from homegrown.serve.spread.weights import config_of, load_shards
from homegrown.serve.worker.child import dtype_of
from homegrown.serve.worker.protocol import Launch, frame, receive
from homegrown.tokenizer import Tokenizer

HERE = "127.0.0.1"
WAIT_S = 600.0
"""Seconds that ranks wait for each other: one may read weights for minutes. Orders may be longer in coming."""
GRACE_S = 2.0
"""Seconds in which a rank ends by itself once the first one has."""


class Rank(NamedTuple):
    """One rank, its model loaded."""

    groups: Groups
    model: SpreadModel


def first_of_ranks(launch: Launch, stage: Callable[[str], None], give_up: Callable[[str], None]) -> Parts:
    """Start a replica of several processes; what an engine in the first of them is made of.

    Args:
        launch: what to load.
        stage: is told what begins.
        give_up: called, in another thread, with the reason when a rank has ended.

    Raises:
        UserError: the directory is not what it should be, the model does not divide, or ranks did not come.
    """
    layout = ranks_of(config_of(Path(launch.directory)), launch.tp, launch.ep)
    if not launched(os.environ):
        stage(f"starting {layout.world} ranks")
        os.environ.update(_start(launch, layout.world, give_up))
    stage("reading weights")
    rank = _join(launch, layout)
    stage("making room for keys")
    leader = lead(rank.groups["world"], os.environ["MASTER_ADDR"])
    leader.watch(lambda lost: give_up(f"rank {lost} of the replica has ended; all are started anew"))
    folder = Path(launch.directory)
    tokenizer = Tokenizer.from_dir(folder) if (folder / TOKENIZER).exists() else None
    return Parts(rank.model, tokenizer, lead_runner(rank.model, launch.options, leader))


def launched(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has started the ranks."""
    return int(environment.get("WORLD_SIZE", "1")) > 1


def run_rank(launch: Launch) -> None:
    """Be one of the other ranks, until the first one ends.

    Raises:
        UserError: as in `first_of_ranks`.
    """
    rank = _join(launch, ranks_of(config_of(Path(launch.directory)), launch.tp, launch.ep))
    follower = follow(rank.groups["world"], lambda: end_soon(GRACE_S))
    run_along(rank.model, launch.options, follower)


def stand_by(launch: Launch) -> int:
    """Be one of the other ranks under a launcher; a status that says that the replica has ended, so that the launcher
    ends or restarts the first rank too.

    Raises:
        UserError: as in `first_of_ranks`.
    """
    _heed_no_signals()
    run_rank(launch)
    sys.stderr.write(f"rank {os.environ['RANK']}: the first rank of the replica has ended\n")
    return 1


def _heed_no_signals() -> None:
    """A terminal's or service manager's signals are for the first rank to heed: it finishes what runs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def main() -> NoReturn:
    """A rank that the first one started; it is told what to load on its standard input, whose end is its own."""
    _heed_no_signals()
    with socket.socket(fileno=os.dup(0)) as sock:
        launch = receive(sock)
        threading.Thread(target=_end_with, args=(sock.dup(),), daemon=True).start()
    status = _run(launch) if isinstance(launch, Launch) else 1
    sys.stderr.flush()
    os._exit(status)  # without the libraries' tearing down: their threads may be talking to ranks that are gone


def _run(launch: Launch) -> int:
    """Be a rank; the status to end with."""
    try:
        run_rank(launch)
    except UserError as error:
        sys.stderr.write(f"rank {os.environ['RANK']}: {error}\n")
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _end_with(sock: socket.socket) -> None:
    receive(sock)
    end_soon(GRACE_S)


def _join(launch: Launch, layout: Layout) -> Rank:
    from homegrown import device

    here = world.join(launch.device, WAIT_S)
    if here.size != layout.world:
        raise UserError(
            f"{here.size} processes were started, and tp = {launch.tp}, ep = {launch.ep} take {layout.world}: start "
            "that many, or none, and the first one starts the others"
        )
    device.set_threads(launch.threads or max(1, device.usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    groups = Groups(layout, here.rank, WAIT_S)
    part = load_shards(Path(launch.directory), layout, here.rank, here.device, dtype_of(launch))
    return Rank(groups, SpreadModel(part, groups))


def _start(launch: Launch, size: int, give_up: Callable[[str], None]) -> dict[str, str]:
    """Start the other ranks on this host; the first one's environment."""
    with socket.create_server((HERE, 0)) as probe:
        port = probe.getsockname()[1]
    common = {name: str(size) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    common |= {"MASTER_ADDR": HERE, "MASTER_PORT": str(port)}
    for rank in range(1, size):
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "homegrown.serve.spread"],
                env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(launch.first + rank)},
                stdin=theirs.fileno(), stdout=2,
            )  # fmt: skip
        ours.sendall(frame(launch))
        threading.Thread(target=_see, args=(process, rank, ours, give_up), daemon=True).start()
    return {**common, "RANK": "0", "LOCAL_RANK": str(launch.first)}


def _see(process: subprocess.Popen[bytes], rank: int, line: socket.socket, give_up: Callable[[str], None]) -> None:
    """Wait for a rank's end. As long as this process lives, its line is open."""
    status = process.wait()
    line.close()
    give_up(f"rank {rank} of the replica has ended with status {status}; all are started anew")
