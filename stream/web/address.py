"""Where the server listens, and what it asks of those who come from elsewhere."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from dataclasses import dataclass

from stream import StreamError

DEFAULT = "127.0.0.1:8080"
TOKEN_VARIABLE = "IRSTREAM_TOKEN"


@dataclass(frozen=True)
class Listener:
    """A listening socket and the token that it asks for.

    Attributes:
        socket: bound and listening.
        token: None on loopback, where none is needed.
    """

    socket: socket.socket
    token: str | None

    @property
    def url(self) -> str:
        """Where a browser finds it, with the token."""
        host, port = self.socket.getsockname()[:2]
        if ipaddress.ip_address(host).is_unspecified:
            host = socket.gethostname()
        elif ":" in host:
            host = f"[{host}]"
        return f"http://{host}:{port}/" + (f"?token={self.token}" if self.token else "")


def split_address(text: str) -> tuple[str, int]:
    """Return the host and the port of ``HOST:PORT``, ``[IPv6]:PORT``, ``HOST`` or ``:PORT``.

    Raises:
        ValueError: saying what is expected.
    """
    default_host, _, default_port = DEFAULT.partition(":")
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = (text, default_port) if not text.isdecimal() else (default_host, text)
    if not port.isdecimal() or not int(port) < 65536 or (":" in host and not host.startswith("[")):
        raise ValueError(f"HOST:PORT is expected, such as {DEFAULT}")
    return host.strip("[]") or default_host, int(port)


def listen(option: str, text: str) -> Listener:
    """Listen at an address.

    Args:
        option: what the user calls it, for errors.
        text: ``HOST:PORT``.

    Raises:
        StreamError: if it is no address, or cannot be had.
    """
    try:
        host, port = split_address(text)
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except (ValueError, OSError) as error:
        reason = str(error.strerror).lower() + "; choose another" if isinstance(error, OSError) else str(error)
        raise StreamError(f"{option} {text}: {reason}") from None
    local = ipaddress.ip_address(listener.getsockname()[0]).is_loopback
    return Listener(listener, None if local else os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(16))
