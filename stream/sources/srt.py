"""What an SRT caller receives, as a file that FFmpeg reads: the FFmpeg that PyAV brings has no SRT.

libsrt (MPL-2.0) is loaded at run time; on Debian it is the package libsrt1.5-gnutls.
"""

from __future__ import annotations

import ctypes
import errno
import socket
from contextlib import suppress
from ctypes import c_char_p, c_int, c_void_p
from functools import cache
from urllib.parse import parse_qsl, urlsplit

from stream.sources.base import SourceError

FIELDS = ("passphrase", "streamid", "latency")
LIBRARIES = ("libsrt-gnutls.so.1.5", "libsrt-openssl.so.1.5", "libsrt.so.1.5")

_RCVTIMEO, _PASSPHRASE, _CONNTIMEO, _RCVLATENCY, _STREAMID = 14, 26, 36, 43, 46  # libsrt's SRTO_*
_REFUSED, _NO_SERVER, _TIMED_OUT = 1002, 1001, 6003  # its error codes
_QUIET = 2  # of its log: what is critical


class SrtReader:
    """A connection to an SRT listener."""

    def __init__(self, url: str, connect_s: float, silence_s: float) -> None:
        """Connect.

        Args:
            url: ``srt://host:port?passphrase=..&streamid=..&latency=120``, the latency in milliseconds.
            connect_s: how long the listener may take to answer, seconds.
            silence_s: how long a read waits for data, seconds.

        Raises:
            OSError: if there is no listener or it refuses.
        """
        library, parts, fields = _library(), urlsplit(url), dict(parse_qsl(urlsplit(url).query))
        host = socket.gethostbyname(parts.hostname or "127.0.0.1")
        self._socket: int = library.srt_create_socket()
        try:
            self._set(_CONNTIMEO, _number(round(connect_s * 1000)))
            self._set(_RCVTIMEO, _number(round(silence_s * 1000)))
            if "latency" in fields:
                self._set(_RCVLATENCY, _number(int(fields["latency"])))
            for name, option in (("passphrase", _PASSPHRASE), ("streamid", _STREAMID)):
                if name in fields:
                    self._set(option, fields[name].encode())
            address = socket.AF_INET.to_bytes(2, "little") + (parts.port or 0).to_bytes(2, "big")
            address += socket.inet_aton(host) + bytes(8)
            if library.srt_connect(self._socket, address, len(address)) < 0:
                raise _fault()
        except BaseException:
            self.close()
            raise

    def read(self, size: int) -> bytes:
        """Return the next message of at most ``size`` bytes, none at the stream's end."""
        room = ctypes.create_string_buffer(max(size, 1500))
        count = _library().srt_recvmsg(self._socket, room, len(room))
        if count < 0:
            raise _fault()
        return room.raw[:count]

    def close(self) -> None:
        """Disconnect."""
        _library().srt_close(self._socket)

    def _set(self, option: int, value: bytes) -> None:
        if _library().srt_setsockflag(self._socket, option, value, len(value)) < 0:
            raise _fault()


def check_srt(url: str, shown: str) -> None:
    """Raise SourceError, which names ``shown``, unless libsrt is there and knows the fields of ``url``."""
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    for name, value in pairs:
        if name not in FIELDS:
            raise SourceError(f"{shown}: no field {name!r}; those of SRT are {', '.join(FIELDS)}")
        if name == "latency" and not (value.isdecimal() and int(value) < 60_000):
            raise SourceError(f"{shown}: latency={value}: milliseconds below 60000 are expected")
        if name == "passphrase" and not 10 <= len(value.encode()) <= 79:
            raise SourceError(f"{shown}: a passphrase has 10 to 79 characters")
    if len(dict(pairs)) < len(pairs):
        raise SourceError(f"{shown}: a field is given twice")
    try:
        _library()
    except OSError:
        raise SourceError(f"{shown}: libsrt is not installed; on Debian: apt-get install libsrt1.5-gnutls") from None


def _number(value: int) -> bytes:
    return bytes(c_int(value))


def _fault() -> OSError:
    """Return libsrt's last error of this thread in a few words."""
    code = _library().srt_getlasterror(None)
    if code in (_NO_SERVER, _TIMED_OUT):
        return TimeoutError()
    if code == _REFUSED:
        return ConnectionRefusedError(errno.ECONNREFUSED, "refused; is the passphrase right?")
    text = (_library().srt_getlasterror_str() or b"").decode(errors="replace")
    return OSError(errno.EIO, " ".join(text.split()) or f"error {code}")


@cache
def _library() -> ctypes.CDLL:
    for name in LIBRARIES:
        with suppress(OSError):
            library = ctypes.CDLL(name)
            break
    else:
        raise OSError(errno.ENOENT, "no libsrt")
    library.srt_connect.argtypes = (c_int, c_char_p, c_int)
    library.srt_setsockflag.argtypes = (c_int, c_int, c_char_p, c_int)
    library.srt_recvmsg.argtypes = (c_int, c_char_p, c_int)
    library.srt_getlasterror.argtypes = (c_void_p,)
    library.srt_getlasterror_str.restype = c_char_p
    library.srt_startup()
    library.srt_setloglevel(_QUIET)
    return library
