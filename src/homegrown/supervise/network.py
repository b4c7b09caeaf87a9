"""Networks that can be cut: a TCP relay, and hosts made of network namespaces."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

_INTERFACE = "eth0"
_NETNS = Path("/etc/netns")


class Relay:
    """Passes TCP connections on to an address, until it is cut: then bytes wait, and no connection is answered.

    Use it as a context: at the end its connections are closed.

    Attributes:
        port: where it listens, on this machine.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open = threading.Event()
        self._open.set()
        self._ends: list[socket.socket] = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.set()
        for end in self._ends:
            _shut(end)

    def cut(self, host: int) -> None:
        """Let nothing through, whichever host is meant: the relay is all that joins them."""
        self._open.clear()

    def heal(self, host: int) -> None:
        """Pass on what comes from now on, and what waited."""
        self._open.set()

    def _accept(self) -> None:
        with suppress(OSError):  # it is shut
            while True:
                near, _ = self._server.accept()
                self._open.wait()
                self._ends.append(near)
                try:
                    far = socket.create_connection(self._target, timeout=5)
                except OSError:  # nobody listens there yet
                    _shut(near)
                    continue
                far.settimeout(None)
                self._ends.append(far)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # either end is gone
            while data := source.recv(1 << 16):
                self._open.wait()
                sink.sendall(data)
        self._open.wait()
        _shut(source)
        _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # it is shut already
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def namespaces_missing() -> str:
    """Why hosts cannot be made of network namespaces here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "needs the program ip (iproute2)"
    probe = f"hg{os.getpid()}p"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"needs network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", probe], check=False)
    return ""


class Namespaces:
    """Hosts on a network of their own: namespaces, joined by a bridge in one more. Use it as a context.

    Host number N has the address 10.77.0.(N + 1), which is also what this machine's name stands for on it, and its own
    loopback.
    """

    def __init__(self, hosts: int) -> None:
        # Names of interfaces have 15 characters at most, and several tests may run at once.
        self._tag = f"hg{os.getpid() % 100000}x{id(self) // 64 % 1000}"
        self._hosts = hosts

    def __enter__(self) -> Namespaces:
        bridge = self._name("b")
        try:
            self._ip("netns", "add", bridge)
            self._ip("-n", bridge, "link", "add", "bridge", "type", "bridge")
            self._ip("-n", bridge, "link", "set", "bridge", "up")
            for number in range(self._hosts):
                name, port = self._name(number), f"port{number}"
                self._ip("netns", "add", name)
                self._ip(
                    "-n", bridge, "link", "add", port, "type", "veth",
                    "peer", "name", _INTERFACE, "netns", name,
                )  # fmt: skip
                self._ip("-n", bridge, "link", "set", port, "master", "bridge", "up")
                self._ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", _INTERFACE)
                self._ip("-n", name, "link", "set", _INTERFACE, "up")
                self._ip("-n", name, "link", "set", "lo", "up")
                self._files(number).mkdir(parents=True)
                hosts = f"127.0.0.1 localhost\n{self.address(number)} {socket.gethostname()}\n"
                (self._files(number) / "hosts").write_text(hosts)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for name in [*map(self._name, range(self._hosts)), self._name("b")]:
            if Path(f"/run/netns/{name}").exists():
                self._ip("netns", "delete", name)
        for number in range(self._hosts):
            shutil.rmtree(self._files(number), ignore_errors=True)
        with suppress(OSError):  # others use it, or it was never made
            _NETNS.rmdir()

    def address(self, number: int) -> str:
        """Of a host."""
        return f"10.77.0.{number + 1}"

    def prefix(self, number: int) -> list[str]:
        """What a command begins with that is to run on a host."""
        return ["ip", "netns", "exec", self._name(number)]

    def cut(self, host: int) -> None:
        """Take a host off the network."""
        self._ip("-n", self._name("b"), "link", "set", f"port{host}", "down")

    def heal(self, host: int) -> None:
        """Put it back."""
        self._ip("-n", self._name("b"), "link", "set", f"port{host}", "up")

    def _files(self, number: int) -> Path:
        """Directory of files that `ip netns exec` shows in /etc on a host."""
        return _NETNS / self._name(number)

    def _name(self, which: object) -> str:
        return f"{self._tag}{which}"

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)
