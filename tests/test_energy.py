import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from homegrown.energy import EnergyMeter

RANGE = 1_000_000_000  # microjoules


def zone(sysfs: Path, folder: str, name: str, energy: int, span: int | None = RANGE) -> Path:
    path = sysfs / "class/powercap" / folder
    path.mkdir(parents=True)
    (path / "name").write_text(name + "\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    if span is not None:
        (path / "max_energy_range_uj").write_text(f"{span}\n")
    return path / "energy_uj"


def power_sensor(sysfs: Path, folder: str, name: str, watts: float, file: str = "power1_input") -> Path:
    path = sysfs / "class/hwmon" / folder
    path.mkdir(parents=True)
    (path / "name").write_text(name + "\n")
    (path / file).write_text(f"{int(watts * 1e6)}\n")
    return path / file


def burn(cpu_seconds: float) -> None:
    end = time.process_time() + cpu_seconds
    while time.process_time() < end:
        pass


class TestCounters:
    def test_packages_and_memory_are_added_inner_zones_are_not(self, tmp_path):
        package = zone(tmp_path, "rapl:0", "package-0", 5_000_000)
        core = zone(tmp_path, "rapl:0:0", "core", 1_000_000)
        memory = zone(tmp_path, "rapl:0:1", "dram", 2_000_000)
        other = zone(tmp_path, "rapl:1", "package-1", 0)
        platform = zone(tmp_path, "rapl:2", "psys", 0)
        meter = EnergyMeter(sysfs=tmp_path, interval=60)
        meter.start()
        for path, energy in [
            (package, 8_000_000),
            (core, 3e6),
            (memory, 2_500_000),
            (other, 1_000_000),
            (platform, 9e6),
        ]:
            path.write_text(f"{int(energy)}\n")
        reading = meter.stop()
        assert reading.joules == pytest.approx(3.0 + 0.5 + 1.0)
        assert reading.source == "counter:package-0+dram of package-0+package-1"
        assert "package-0 3.0 J" in reading.detail

    def test_a_package_listed_twice_counts_once(self, tmp_path):
        first = zone(tmp_path, "rapl-mmio:0", "package-0", 0)
        second = zone(tmp_path, "rapl:0", "package-0", 0)
        meter = EnergyMeter(sysfs=tmp_path, interval=60)
        meter.start()
        first.write_text("4000000")
        second.write_text("4000000")
        assert meter.stop().joules == pytest.approx(4.0)

    def test_platform_where_no_package_is_listed(self, tmp_path):
        path = zone(tmp_path, "rapl:0", "psys", 0)
        meter = EnergyMeter(sysfs=tmp_path, interval=60)
        meter.start()
        path.write_text("7000000")
        assert meter.stop().source == "counter:psys"

    def test_wrap_around(self, tmp_path):
        path = zone(tmp_path, "rapl:0", "package-0", RANGE - 3_000_000)
        meter = EnergyMeter(sysfs=tmp_path, interval=60)
        meter.start()
        path.write_text("2000000")
        assert meter.stop().joules == pytest.approx(5.0)

    def test_several_wraps_are_seen_by_the_thread(self, tmp_path):
        path = zone(tmp_path, "rapl:0", "package-0", 0)
        meter = EnergyMeter(sysfs=tmp_path, interval=0.01)
        meter.start()
        for energy in (600, 200, 800, 400):  # millions: 600 up, 600 over the wrap, 600 up, 600 over the wrap
            temporary = path.with_name("next")
            temporary.write_text(f"{energy * 1_000_000}")
            temporary.rename(path)  # a reader must never see an empty file, as it never does in sysfs
            time.sleep(0.2)
        assert meter.stop().joules == pytest.approx(2400.0)

    def test_a_counter_that_goes_back_without_a_range_is_not_believed(self, tmp_path):
        path = zone(tmp_path, "rapl:0", "package-0", 9_000_000, span=None)
        meter = EnergyMeter(sysfs=tmp_path, interval=60)
        meter.start()
        path.write_text("1000000")
        reading = meter.stop()
        assert reading.source == "estimate"
        assert "package-0 stopped answering and is not counted (it went backwards" in reading.detail

    def test_a_counter_that_disappears_is_not_counted(self, tmp_path):
        lost = zone(tmp_path, "rapl:0", "package-0", 0)
        kept = zone(tmp_path, "rapl:1", "package-1", 0)
        meter = EnergyMeter(sysfs=tmp_path, interval=60)
        meter.start()
        lost.unlink()
        kept.write_text("2000000")
        reading = meter.stop()
        assert reading.source == "counter:package-1"
        assert reading.joules == pytest.approx(2.0)
        assert "package-0 stopped answering and is not counted (No such file or directory)" in reading.detail

    def test_start_again_begins_at_zero(self, tmp_path):
        path = zone(tmp_path, "rapl:0", "package-0", 0)
        meter = EnergyMeter(sysfs=tmp_path, interval=60)
        for energy in (1_000_000, 3_000_000):
            meter.start()
            path.write_text(f"{energy}")
            reading = meter.stop()
        assert reading.joules == pytest.approx(2.0)


class TestPowerSensors:
    def test_power_is_integrated(self, tmp_path):
        power_sensor(tmp_path, "hwmon3", "board", watts=50)
        meter = EnergyMeter(sysfs=tmp_path, interval=0.05)
        start = time.perf_counter()
        meter.start()
        time.sleep(0.2)
        reading = meter.stop()
        seconds = time.perf_counter() - start
        assert reading.source == "counter:board (hwmon3)"
        # The meter's own clock starts and stops a moment inside ours; 0.2 s is what it cannot fall below.
        assert 50 * 0.2 <= reading.joules <= 50 * seconds

    def test_meter_of_the_whole_machine_is_taken_alone(self, tmp_path):
        power_sensor(tmp_path, "hwmon0", "board", watts=50)
        power_sensor(tmp_path, "hwmon1", "power_meter", watts=200, file="power1_average")
        meter = EnergyMeter(sysfs=tmp_path)
        meter.start()
        assert meter.stop().source == "counter:power_meter (hwmon1)"

    def test_energy_counters_come_before_power_sensors(self, tmp_path):
        power_sensor(tmp_path, "hwmon0", "board", watts=50)
        zone(tmp_path, "rapl:0", "package-0", 0)
        meter = EnergyMeter(sysfs=tmp_path)
        meter.start()
        assert meter.stop().source == "counter:package-0"


class TestEstimate:
    def test_cpu_time_times_a_stated_figure(self, tmp_path):
        meter = EnergyMeter(sysfs=tmp_path, watts_per_core=10)
        before = sum(os.times()[:4])
        meter.start()
        burn(0.2)
        reading = meter.stop()
        spent = sum(os.times()[:4]) - before
        assert reading.source == "estimate"
        # os.times counts in ticks of 10 ms, so that either end may be off by one of user and one of system time.
        assert 10 * (0.2 - 0.04) <= reading.joules <= 10 * (spent + 0.04)
        assert "an assumed 10 W per busy core; no energy counter found" in reading.detail

    def test_says_why_a_counter_was_not_read(self, tmp_path):
        path = zone(tmp_path, "rapl:0", "package-0", 0)
        path.unlink()
        path.mkdir()  # unreadable, for root as well
        meter = EnergyMeter(sysfs=tmp_path)
        meter.start()
        reading = meter.stop()
        assert reading.source == "estimate"
        assert "package-0 is not readable (Is a directory)" in reading.detail


class TestAccelerator:
    DEVICE = torch.device("xpu:0")

    def with_module(self, monkeypatch, **functions):
        monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace(**functions))

    def test_its_power_is_added_to_the_host(self, monkeypatch, tmp_path):
        self.with_module(monkeypatch, power_draw=lambda device: 300_000)  # milliwatts
        path = zone(tmp_path, "rapl:0", "package-0", 0)
        meter = EnergyMeter(self.DEVICE, sysfs=tmp_path, interval=60)
        meter.start()
        path.write_text("1000000")
        time.sleep(0.05)
        reading = meter.stop()
        assert reading.source == "counter:package-0+xpu:0 power"
        assert reading.joules >= 1.0 + 300 * 0.05
        assert "not counted" not in reading.detail

    def test_alone_it_says_that_the_host_is_missing(self, monkeypatch, tmp_path):
        self.with_module(monkeypatch, power_draw=lambda device: 300_000)
        meter = EnergyMeter(self.DEVICE, sysfs=tmp_path)
        meter.start()
        assert meter.stop().detail.endswith("the host is not counted")

    def test_without_a_sensor_it_says_so(self, monkeypatch, tmp_path):
        def broken(device):
            raise ModuleNotFoundError("no binding")

        self.with_module(monkeypatch, power_draw=broken)
        meter = EnergyMeter(self.DEVICE, sysfs=tmp_path)
        meter.start()
        reading = meter.stop()
        assert reading.source == "estimate"
        assert "xpu:0 power is not readable (no binding)" in reading.detail
        assert reading.detail.endswith("xpu:0 itself is not counted")


def test_order_of_calls():
    meter = EnergyMeter()
    with pytest.raises(RuntimeError, match="call start first"):
        meter.stop()
    meter.start()
    with pytest.raises(RuntimeError, match="already measuring"):
        meter.start()
    meter.stop()
