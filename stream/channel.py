"""Channels between the workers: a message arrives whole or not at all, whoever is killed in the middle of one.

A pipe does not promise that: a worker that dies while it writes or reads leaves half a message behind. A packet
socket does, and what waits in it is kept for the worker that takes the dead one's place, as long as the supervisor
holds both ends.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from multiprocessing import reduction
from typing import Any

LARGEST_PACKET = 8192  # bytes; a larger message travels as the descriptor of a file in memory
DESCRIPTOR_SPACE = socket.CMSG_LEN(4)  # of one file descriptor, a C int
BUFFER_BYTES = 1 << 20  # asked for; the kernel gives what it allows


class Channel:
    """One end of a one-way channel."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherit, (reduction.DupFd(self.fileno()),)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send_bytes(self, content: bytes) -> None:
        """Send a message; waits while the channel is full.

        Raises:
            OSError: if nobody holds the other end any more.
        """
        self._send(content, 0)

    def try_send_bytes(self, content: bytes) -> bool:
        """Send a message if there is room for it; return whether there was."""
        try:
            self._send(content, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def _send(self, content: bytes, flags: int) -> None:
        if len(content) <= LARGEST_PACKET:
            self._socket.sendmsg([content], [], flags)
            return
        fd = os.memfd_create("irstream-message")
        try:
            with os.fdopen(os.dup(fd), "wb") as file:
                file.write(content)
            socket.send_fds(self._socket, [b"\0"], [fd], flags)
        finally:
            os.close(fd)

    def recv_bytes(self) -> bytes:
        """Return the next message; waits for it.

        Raises:
            EOFError: if there is none and nobody holds the other end any more.
        """
        content, ancillary, _, _ = self._socket.recvmsg(LARGEST_PACKET, DESCRIPTOR_SPACE)
        if ancillary:
            with os.fdopen(int.from_bytes(ancillary[0][2], sys.byteorder), "rb") as file:
                file.seek(0)
                return file.read()
        if not content:
            raise EOFError
        return content

    def poll(self, timeout: float = 0.0) -> bool:
        """Tell whether a message is there, or the end, within ``timeout`` seconds."""
        return bool(self._poll.poll(timeout * 1000))

    def close(self) -> None:
        self._socket.close()


def channel() -> tuple[Channel, Channel]:
    """Return the receiving and the sending end of a new channel."""
    receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return Channel(receiver), Channel(sender)


def _inherit(handle: Any) -> Channel:  # noqa: ANN401 (multiprocessing's handle has no public type)
    return Channel(socket.socket(fileno=handle.detach()))
