"""What the address of a network camera must be, checked without the libraries that open one."""

from __future__ import annotations

from urllib.parse import urlsplit

from stream.sources import NETWORK, masked
from stream.sources.base import SourceError
from stream.sources.srt import check_srt


def check_url(url: str) -> None:
    """Raise SourceError unless ``url`` names a host, and a port where there is no usual one."""
    shown = masked(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text quotes what may be a part of the password
        raise SourceError(
            f"{shown!r}: not a URL; rtsp://user:password@host:554/path is one, and a / in a password is written %2F"
        ) from None
    if parts.scheme not in NETWORK or not url.isprintable() or not parts.netloc:
        raise SourceError(f"{shown!r}: not a URL; rtsp://host/path is one")
    if parts.scheme in ("udp", "rtp", "srt"):
        if not port:
            raise SourceError(f"{shown}: it needs a port, as in {parts.scheme}://127.0.0.1:5000")
        if parts.scheme == "srt":
            check_srt(url, shown)
    elif not parts.hostname:
        raise SourceError(f"{shown}: it names no host")
