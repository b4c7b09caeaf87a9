import os
import subprocess
import sys
import textwrap

import pytest
import torch

from homegrown import device
from homegrown.config import UserError
from homegrown.device import DeviceError

CPU = torch.device("cpu")


def in_new_process(code: str) -> str:
    """Output of `code` in a fresh interpreter: for what changes the process for good."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def two_accelerators(monkeypatch):
    """PyTorch's view of a machine with two accelerators of one type; the list of those made current."""
    current = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: current[-1] if current else 0)
    monkeypatch.setattr(torch.accelerator, "set_device_index", current.append)
    return current


class TestPick:
    def test_auto_is_what_pytorch_finds(self):
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        assert device.pick().type == (accelerator.type if accelerator else "cpu")

    @pytest.mark.parametrize("name", ["cpu", "cpu:0"])
    def test_cpu_by_name(self, name):
        assert device.pick(name) == CPU

    @pytest.mark.parametrize("name", ["cpu:1", "meta", "warp", "", "npu"])
    def test_what_is_not_there_is_refused_with_what_is(self, name):
        with pytest.raises(DeviceError) as caught:
            device.pick(name)
        assert repr(name) in str(caught.value)
        assert str(caught.value).endswith("this machine has: " + ", ".join(device.available()))
        assert isinstance(caught.value, UserError)

    def test_auto_takes_the_accelerator(self, two_accelerators):
        assert device.pick("auto") == torch.device("xpu:0")

    def test_name_with_and_without_index(self, two_accelerators):
        assert device.pick("xpu:1") == torch.device("xpu:1")
        assert two_accelerators == [1]
        assert device.pick("xpu") == torch.device("xpu:1"), "without an index: the current one"

    def test_cpu_stays_available_beside_accelerators(self, two_accelerators):
        assert device.pick("cpu") == CPU
        assert device.available() == ["cpu", "xpu:0", "xpu:1"]

    def test_never_another_accelerator_or_index_than_asked(self, two_accelerators):
        with pytest.raises(DeviceError, match=r"'cuda'.* this machine has: cpu, xpu:0, xpu:1"):
            device.pick("cuda")
        with pytest.raises(DeviceError, match="'xpu:2': no device has that index"):
            device.pick("xpu:2")
        assert two_accelerators == []


class TestCollectiveBackend:
    @pytest.mark.parametrize(("kind", "backend"), [("cpu", "gloo"), ("cuda", "nccl"), ("xpu", "xccl"), ("hpu", "hccl")])
    def test_known_types(self, kind, backend):
        assert device.collective_backend(torch.device(kind)) == backend

    def test_type_without_backend(self):
        with pytest.raises(DeviceError, match="'meta' has no collective backend"):
            device.collective_backend(torch.device("meta"))

    def test_a_plugin_type_by_table_and_then_by_what_it_registers(self):
        out = in_new_process("""
            import torch
            from homegrown.device import collective_backend
            torch.utils.rename_privateuse1_backend("npu")
            print(collective_backend(torch.device("npu")))
            torch.distributed.Backend.register_backend("madeup", lambda *_: None, devices=["npu"])
            print(collective_backend(torch.device("npu:3")))
        """)
        assert out.split() == ["hccl", "madeup"]


class TestDescribe:
    def test_cpu(self):
        info = device.describe(CPU)
        assert info.type == "cpu"
        assert info.name
        assert info.memory_bytes > 1 << 28
        assert 1 <= info.cores == device.usable_cores()
        assert info.features.architecture == torch.backends.cpu.get_cpu_capability()

    def test_the_same_each_time(self):
        assert device.describe(CPU) == device.describe(CPU), "a choice of dtype follows from it"


class TestMeasurements:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_peak_is_a_plausible_speed(self, dtype):
        assert 1e8 < device.measure_peak(CPU, dtype, seconds=0.02) < 1e15

    def test_peak_of_an_impossible_dtype(self):
        with pytest.raises(DeviceError, match=r"device cpu does not multiply .* torch\.bool"):
            device.measure_peak(CPU, torch.bool)

    def test_bandwidth_is_a_plausible_speed(self):
        assert 1e8 < device.measure_bandwidth(CPU, seconds=0.02) < 1e13

    def test_measuring_leaves_random_states_alone(self):
        device.seed_all(3)
        straight = torch.rand(4)
        device.seed_all(3)
        device.measure_peak(CPU, torch.float32, seconds=0)
        assert torch.equal(torch.rand(4), straight)

    def test_synchronize_is_nothing_on_the_cpu(self):
        device.synchronize(CPU)

    def test_peak_memory_sees_a_buffer_come_and_go(self):
        size = 256 << 20
        out = in_new_process(f"""
            import torch
            from homegrown.device import peak_memory
            cpu = torch.device("cpu")
            before = peak_memory(cpu)
            torch.ones({size}, dtype=torch.uint8)
            print(peak_memory(cpu) - before)
        """)
        assert size * 0.8 < int(out) < size * 1.5


def test_seed_all_repeats_every_generator():
    import random

    import numpy as np

    def draw():
        return random.random(), float(np.random.rand()), torch.rand(3).tolist()

    device.seed_all(2**40 + 5)
    first = draw()
    device.seed_all(2**40 + 5)
    assert draw() == first
    device.seed_all(2**40 + 6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_peers_on_this_machine_need_no_other_interface(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "before")
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "eth0"), (2, "lo0")])
    device.stay_on_loopback()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo0"
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "eth0")])
    device.stay_on_loopback()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo0"
