"""Energy of a stretch of work, from hardware counters where they are readable, else an estimate marked as one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

WATTS_PER_CORE = 7.0
"""Assumed draw of one busy core where nothing is readable. Rated power over cores, caches and memory controllers
included, is 3.75 W in a 96-core server chip of 360 W, 6.25 W in one of 56 cores and 350 W, 10.6 W in a 16-core desktop
chip of 170 W."""


@dataclass(frozen=True, kw_only=True)
class EnergyReading:
    """Energy used between `EnergyMeter.start` and `stop`."""

    joules: float
    source: str
    """`counter:<names>` where hardware was read, else `estimate`."""
    detail: str
    """How the figure came about and what it leaves out."""


class EnergyMeter:
    """Measures energy in the background, from `start` to `stop`.

    The host is read from Linux powercap (RAPL: packages and memory), else from hwmon power sensors; an accelerator from
    the `power_draw` of its PyTorch module. A thread reads them every `interval` seconds, because counters wrap (after
    minutes on a busy server) and power has to be integrated. They see the whole machine, other work on it included.
    Where none is readable, the estimate is the CPU time of this process, and of those it started and waited for, times
    `watts_per_core`.

    Args:
        device: where the work runs; the CPU if not given.
        sysfs: root of the sysfs tree.
        interval: seconds between readings.
        watts_per_core: assumed by the estimate.
    """

    def __init__(
        self,
        device: torch.device | None = None,
        *,
        sysfs: Path = Path("/sys"),
        interval: float = 1.0,
        watts_per_core: float = WATTS_PER_CORE,
    ) -> None:
        self._device = device or torch.device("cpu")
        self._sysfs = sysfs
        self._interval = interval
        self._watts_per_core = watts_per_core
        self._sensors: list[_Sensor] = []
        self._joules: dict[str, float] = {}
        self._notes: list[str] = []
        self._thread: threading.Thread | None = None
        self._done = threading.Event()

    def start(self) -> None:
        """Begin measuring, from zero.

        Raises:
            RuntimeError: already measuring.
        """
        if self._thread is not None:
            raise RuntimeError("EnergyMeter.start: already measuring; call stop first")
        self._joules, self._notes = {}, []
        self._sensors = self._begin(_powercap_sensors(self._sysfs)) or self._begin(_hwmon_sensors(self._sysfs))
        self._sensors += self._begin(_accelerator_sensors(self._device))
        self._cpu_seconds = _cpu_seconds()
        self._read_at = time.perf_counter()
        self._done.clear()
        self._thread = threading.Thread(target=self._poll, name="energy-meter", daemon=True)
        self._thread.start()

    def stop(self) -> EnergyReading:
        """End measuring; the energy since `start`.

        Raises:
            RuntimeError: not measuring.
        """
        if self._thread is None:
            raise RuntimeError("EnergyMeter.stop: not measuring; call start first")
        self._done.set()
        self._thread.join()
        self._thread = None
        self._advance()
        return self._counted() if self._joules else self._estimated()

    def _begin(self, sensors: list[_Sensor]) -> list[_Sensor]:
        """Those of `sensors` that answer."""
        answering = []
        for sensor in sensors:
            try:
                sensor.start()
            except Exception as error:  # bindings to vendors' libraries raise classes of their own
                self._notes.append(f"{sensor.name} is not readable ({_reason(error)})")
            else:
                self._joules[sensor.name] = 0.0
                answering.append(sensor)
        return answering

    def _poll(self) -> None:
        while not self._done.wait(self._interval):
            self._advance()

    def _advance(self) -> None:
        now = time.perf_counter()
        seconds, self._read_at = now - self._read_at, now
        for sensor in list(self._sensors):
            try:
                self._joules[sensor.name] += sensor.advance(seconds)
            except Exception as error:  # as in _begin
                # Half a reading would look like a small one, so none of it counts.
                self._sensors.remove(sensor)
                del self._joules[sensor.name]
                self._notes.append(f"{sensor.name} stopped answering and is not counted ({_reason(error)})")

    def _counted(self) -> EnergyReading:
        parts = ", ".join(f"{name} {joules:.1f} J" for name, joules in self._joules.items())
        how = f"hardware counters, all work on them included: {parts}"
        return EnergyReading(
            joules=sum(self._joules.values()),
            source="counter:" + "+".join(self._joules),
            detail="; ".join([how, *self._notes, *self._missing()]),
        )

    def _estimated(self) -> EnergyReading:
        busy = _cpu_seconds() - self._cpu_seconds
        how = f"{busy:.1f} CPU-seconds of this process x an assumed {self._watts_per_core:g} W per busy core"
        return EnergyReading(
            joules=busy * self._watts_per_core,
            source="estimate",
            detail="; ".join([how, *(self._notes or ["no energy counter found"]), *self._missing()]),
        )

    def _missing(self) -> list[str]:
        """What the figure leaves out, in words."""
        missing = []
        accelerator = _accelerator_name(self._device)
        if self._device.type != "cpu" and accelerator not in self._joules:
            missing.append(f"{self._device} itself is not counted")
        if list(self._joules) == [accelerator]:
            missing.append("the host is not counted")
        return missing


class _Sensor(Protocol):
    @property
    def name(self) -> str: ...

    def start(self) -> None:
        """Begin; raises if the sensor cannot be read."""

    def advance(self, seconds: float) -> float:
        """Joules since the last call, `seconds` ago."""


@dataclass
class _Counter:
    """A running count of microjoules that starts again at zero above `span`."""

    name: str
    path: Path
    span: int
    last: int = 0

    def start(self) -> None:
        self.last = int(self.path.read_text())

    def advance(self, seconds: float) -> float:
        now = int(self.path.read_text())
        used, self.last = now - self.last, now
        if used < 0 and not self.span:
            raise ValueError("it went backwards and states no range")
        return (used if used >= 0 else used + self.span) / 1e6


@dataclass
class _Power:
    """A power sensor in watts, integrated by the trapezoid rule."""

    name: str
    read: Callable[[], float]
    last: float = 0.0

    def start(self) -> None:
        self.last = self.read()

    def advance(self, seconds: float) -> float:
        now = self.read()
        mean, self.last = (now + self.last) / 2, now
        return mean * seconds


def _powercap_sensors(sysfs: Path) -> list[_Sensor]:
    """The packages and the memory beside them; the platform as a whole where no package is listed.

    Zones inside a package (core, uncore) are part of its count, and a second interface may list a package again.
    """
    zones: dict[str, _Sensor] = {}
    for path in sorted(sysfs.glob("class/powercap/*/energy_uj")):
        name = _text(path.with_name("name"))
        if name == "dram":
            package = path.parent.with_name(path.parent.name.rpartition(":")[0])
            name = f"dram of {_text(package / 'name')}"
        span = int(_text(path.with_name("max_energy_range_uj")) or 0)
        zones.setdefault(name, _Counter(name, path, span))
    packages = [sensor for name, sensor in zones.items() if name.startswith(("package", "dram"))]
    return packages or [sensor for name, sensor in zones.items() if name == "psys"]


def _hwmon_sensors(sysfs: Path) -> list[_Sensor]:
    """The power meter of the whole machine if it has one, else the first power sensor of each monitoring chip."""
    sensors: list[_Sensor] = []
    for folder in sorted(sysfs.glob("class/hwmon/hwmon*")):
        files = [folder / "power1_average", folder / "power1_input"]
        path = next((path for path in files if path.exists()), None)
        if path is not None:
            sensors.append(_Power(f"{_text(folder / 'name')} ({folder.name})", _microwatts(path)))
    return [sensor for sensor in sensors if sensor.name.startswith("power_meter ")] or sensors


def _accelerator_sensors(device: torch.device) -> list[_Sensor]:
    if device.type == "cpu":
        return []
    module: Any = torch.get_device_module(device)
    if not hasattr(module, "power_draw"):
        return []
    return [_Power(_accelerator_name(device), lambda: module.power_draw(device) / 1e3)]  # milliwatts


def _accelerator_name(device: torch.device) -> str:
    return f"{device} power"


def _microwatts(path: Path) -> Callable[[], float]:
    return lambda: int(path.read_text()) / 1e6


def _text(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
