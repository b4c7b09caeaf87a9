"""How processes come together. Each case starts processes of its own, as a launcher would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from homegrown import device as devices
from homegrown.config import UserError
from homegrown.device import DeviceError
from homegrown.parallel.world import World, WorldError, _Place, join, leave
from homegrown.parallel.world import _take as take

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

JOIN = """
import os, sys
import torch, torch.distributed as dist
from homegrown.config import UserError
from homegrown.parallel import world as module
from homegrown.parallel.world import join, leave
module.MANY = 1  # connections as in a large world; all other tests of several processes have them as in a small one
try:
    world = join("cpu", timeout_s=float(sys.argv[1]))
except UserError as error:
    sys.exit(str(error))
total = torch.tensor([10 ** world.rank])
dist.all_reduce(total)
objects = [None] * world.size
dist.all_gather_object(objects, (world.rank, world.local_rank, os.environ["LOCAL_RANK"]))
print(world.rank, world.size, world.device, total.item(), objects)
leave()
assert not dist.is_initialized()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(port: int, rank: int, size: int, local_rank: int | None = None) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank if local_rank is None else local_rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def joining(*places: dict[str, str], timeout_s: float) -> list[subprocess.CompletedProcess[str]]:
    """Processes with these environments, side by side, that join, talk and leave."""
    outside = {key: value for key, value in os.environ.items() if key not in NAMES}
    quiet = {"TORCH_CPP_LOG_LEVEL": "FATAL"}

    def one(place: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", JOIN, str(timeout_s)]
        env = outside | quiet | place
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=100)

    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(one, places))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No launcher's variables, whatever started pytest."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_without_a_launcher_it_is_a_world_of_one(alone):
    assert join("cpu") == World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
    assert not dist.is_initialized()
    leave()


def test_a_world_of_one_needs_no_process_group(alone):
    for name, value in environment(1, 0, 1).items():
        alone.setenv(name, value)
    assert join("cpu").size == 1
    assert not dist.is_initialized()


def test_two_processes_meet_and_talk():
    port = free_port()
    done = joining(*(environment(port, rank, 2) for rank in range(2)), timeout_s=60)
    assert [process.returncode for process in done] == [0, 0], done
    objects = "[(0, 0, '0'), (1, 1, '1')]"
    assert [process.stdout.strip() for process in done] == [f"{rank} 2 cpu 11 {objects}" for rank in range(2)]


def come(port: int, *ranks: int) -> None:
    """Arrive at the store as these ranks would, as soon as it is there."""
    store = dist.PrefixStore("homegrown", dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False))
    for rank in ranks:
        store.set(f"came/{rank}", "elsewhere")
        store.add("came", 1)


def test_the_first_rank_names_the_missing(alone):
    place = environment(free_port(), 0, 4)
    for name, value in place.items():
        alone.setenv(name, value)
    with ThreadPoolExecutor(1) as pool, pytest.raises(WorldError) as caught:
        pool.submit(come, int(place["MASTER_PORT"]), 2)
        join("cpu", timeout_s=5)
    assert str(caught.value) == f"{FIRST_OF_FOUR}: after 5 s 2 of 4 ranks have not come: 1, 3"


FIRST_OF_FOUR = f"rank 0 of 4 (host {socket.gethostname()}, local rank 0)"


@pytest.mark.parametrize(
    ("others", "message"),
    [((), "at least 1 of 4 ranks have not come: 0"), ((0,), "some ranks have not come; rank 0 names them")],
)
def test_the_others_look_for_the_first_rank_only(alone, others, message):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    come(store.port, *others)
    for name, value in environment(store.port, 2, 4).items():
        alone.setenv(name, value)
    alone.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(WorldError, match=f"rank 2 of 4 .*: after 0.5 s {message}"):
        join("cpu", timeout_s=0.5)


def test_no_store_where_it_should_be(alone):
    port = free_port()
    for name, value in environment(port, 1, 2).items():
        alone.setenv(name, value)
    alone.setenv("TORCH_CPP_LOG_LEVEL", "FATAL")
    with pytest.raises(
        WorldError, match=rf"rank 1 of 2 .*: no store at 127.0.0.1:{port} \(MASTER_ADDR:MASTER_PORT\): "
    ):
        join("cpu", timeout_s=1)


def test_a_store_that_holds_an_earlier_attempt_is_refused(alone):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    dist.PrefixStore("homegrown", store).add("came", 2)
    for name, value in environment(store.port, 1, 2).items():
        alone.setenv(name, value)
    with pytest.raises(WorldError, match=r"already holds 2 arrivals.*TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        join("cpu", timeout_s=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"MASTER_PORT": None, "RANK": None},
            r"WORLD_SIZE, LOCAL_RANK, MASTER_ADDR set, but not RANK, MASTER_PORT; .*",
        ),
        ({"RANK": "two"}, "RANK='two' is not a whole number"),
        ({"RANK": "-1"}, "RANK='-1' is not a whole number"),
        ({"RANK": "2"}, "RANK=2, WORLD_SIZE=2; right is RANK < WORLD_SIZE"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT=65536; a port is below 65536"),
    ],
)
def test_an_environment_that_cannot_be(alone, changes, message):
    for name, value in (environment(1, 1, 2) | changes).items():
        if value is not None:
            alone.setenv(name, value)
    with pytest.raises(WorldError, match=message) as caught:
        join("cpu")
    assert isinstance(caught.value, UserError)


class TestDevice:
    """Which device a process takes, on a host that PyTorch says has two accelerators of one type."""

    @pytest.fixture(autouse=True)
    def two_accelerators(self, alone):
        self.current: list[int] = []
        alone.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("xpu"))
        alone.setattr(torch.accelerator, "device_count", lambda: 2)
        alone.setattr(torch.accelerator, "current_device_index", lambda: 0)
        alone.setattr(torch.accelerator, "set_device_index", self.current.append)

    @pytest.mark.parametrize("name", ["auto", "xpu"])
    def test_the_local_rank_counts_off(self, name):
        assert take(name, _Place(rank=6, size=8, local_rank=0)) == torch.device("xpu:0")
        assert take(name, _Place(rank=7, size=8, local_rank=1)) == torch.device("xpu:1")
        assert self.current == [0, 1], "no other device was touched"

    def test_an_index_is_taken_as_it_is(self):
        assert take("xpu:0", _Place(rank=7, size=8, local_rank=1)) == torch.device("xpu:0")

    def test_the_cpu_is_for_all(self):
        assert take("cpu", _Place(rank=7, size=8, local_rank=5)) == torch.device("cpu")

    def test_more_processes_than_devices(self):
        crowded = _Place(rank=7, size=8, local_rank=2)
        with pytest.raises(DeviceError, match=r"rank 7 of 8 .*local rank 2\): no device xpu:2, this host shows 2; "):
            take("auto", crowded)
        with pytest.raises(DeviceError, match="'cuda': not on this machine"):
            take("cuda", crowded)

    def test_the_host_keeps_a_backend_of_its_own(self):
        assert devices.collective_backends(torch.device("xpu:1")) == "cpu:gloo,xpu:xccl"
        assert devices.collective_backends(torch.device("cpu")) == "gloo"
