"""The server process: a port, signals, and an end that lets running requests finish."""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import socket
import ssl
import time
from pathlib import Path
from types import FrameType

import uvicorn

from homegrown.config import UserError
from homegrown.serve.http.app import Front
from homegrown.serve.http.protocol import GuardedProtocol, Patience

BACKLOG = 4096
"""Connections that wait to be accepted."""
_CLOSE_S = 15
"""Seconds for the engine's process to end."""
_HANGUP_S = 3
"""Seconds for connections to close once requests have ended or been aborted."""


class Server(uvicorn.Server):
    """uvicorn's server, but the first SIGTERM or SIGINT lets running requests finish, and the second does not.

    Between the first signal and the end, the port stays open: `/ready` answers 503, and so do new requests, with a time
    to try again; running ones may go on for `drain_s` seconds and are aborted then.

    Args:
        config: uvicorn's, whose app is `front`.
        front: the application.
    """

    def __init__(self, config: uvicorn.Config, front: Front) -> None:
        super().__init__(config)
        self._front = front
        self._deadline = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._front.admission.draining:
            self.should_exit = self.force_exit = True
        self._front.admission.draining = True
        self._deadline = time.monotonic() + self._front.options.drain_s

    async def on_tick(self, counter: int) -> bool:
        """See, ten times a second, whether it is time to end."""
        front = self._front
        if front.failure is not None:
            self.should_exit = True
        if front.admission.draining and not self.should_exit:
            late = time.monotonic() >= self._deadline
            if late:
                await front.backend.close()  # streams are told in their own words that they end here
            self.should_exit = late or front.admission.running == 0
        return await super().on_tick(counter)

    async def run_until_told(self, sock: socket.socket) -> None:
        """Serve on a bound socket until a signal ends it.

        Raises:
            UserError: the engine could not be started.
        """
        try:
            await self.serve([sock])
            if self._front.failure is not None:
                raise self._front.failure
        finally:
            await asyncio.wait_for(self._front.close(), _CLOSE_S)


def make_server(
    front: Front,
    *,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    keep_alive_s: int = 75,
    patience: Patience | None = None,
) -> Server:
    """A server for an application.

    Args:
        front: the application.
        tls_cert, tls_key: PEM files; with them it speaks TLS. The key may be in the certificate's file.
        keep_alive_s: seconds that an idle connection is kept: longer than load balancers keep theirs, or they would
            send requests down connections that are being closed.
        patience: with clients that send or read slowly.

    Raises:
        UserError: the TLS files are not what they should be.
    """
    if tls_key and not tls_cert:
        raise UserError("--tls-key is the key of a certificate; name that too, by --tls-cert")
    if tls_cert:
        check_tls(tls_cert, tls_key)
    protocol = type("Protocol", (GuardedProtocol,), {"patience": patience or Patience()})
    config = uvicorn.Config(
        front,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=_HANGUP_S,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
    )
    return Server(config, front)


def check_tls(cert: Path, key: Path | None) -> None:
    """Raise `UserError` unless the two belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except OSError as error:
        names = f"{cert} and {key}" if key else str(cert)
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise UserError(f"{names}: no certificate with its key, in PEM: {reason}") from None


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address, that does not listen yet; port 0 is any that is free.

    Raises:
        UserError: the host is unknown, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host {host}: no such host") from None
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(BACKLOG)  # only now is it known that nobody else listens there
    except OSError as error:
        sock.close()
        raise UserError(
            f"port {port} of {host} cannot be used: {error.strerror}; choose another by --port, or 0 for any"
        ) from None
    return sock


def allow_connections() -> None:
    """Let this process have as many connections as the system allows: often a thousand files are the limit until a
    process asks for more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's addresses."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (socket.gaierror, UnicodeError):
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)
