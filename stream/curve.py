"""Who may listen: CURVE keys, the list of allowed clients, and what an endpoint shows to the network."""

from __future__ import annotations

import ipaddress
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import zmq
import zmq.auth
from zmq.utils import z85

from stream import StreamError

KEY_FILE_BYTES = 4096
MAX_CLIENTS = 1000
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")


class KeyFileError(StreamError):
    """A key or a list of keys that cannot be used; the message names the file and what would be right."""


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair, both as 40 characters of Z85."""

    public: bytes
    secret: bytes


@dataclass(frozen=True)
class ClientKeys:
    """The publisher's public key, and a pair that it lets in."""

    server: bytes
    own: KeyPair


@dataclass(frozen=True)
class ServerCurve:
    """What a publisher needs so that only clients that it knows may listen.

    Attributes:
        key: the file of its own secret key, as ``stream.keys make`` writes it.
        clients: the folder of the public keys of clients that are let in.
    """

    key: Path
    clients: Path


def make_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a new key pair, readable by its owner alone; return the public and the secret file.

    Raises:
        KeyFileError: if the name is none, is taken, or nothing can be written there.
    """
    check_name(name)
    files = folder / f"{name}.key", folder / f"{name}.key_secret"
    for path in files:
        if path.exists():
            raise KeyFileError(f"{path}: it is there already; another name is expected, or remove it first")
    before = os.umask(0o077)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        zmq.auth.create_certificates(folder, name)
    except OSError as error:
        raise KeyFileError(f"{folder}: {error.strerror}") from None
    finally:
        os.umask(before)
    return files


def read_pair(path: Path) -> KeyPair:
    """Return the key pair of a secret file.

    Raises:
        KeyFileError: if it cannot be read, is none, or others than its owner and group may read it.
    """
    public, secret = _read(path)
    if secret is None:
        raise KeyFileError(f"{path}: holds no secret key; the file NAME.key_secret is expected")
    mode = path.stat().st_mode & 0o777
    if mode & 0o027:  # a service's own group may read it
        raise KeyFileError(f"{path}: others may read or change this secret key (mode {mode:o}); chmod 600 it")
    if zmq.curve_public(secret) != public:
        raise KeyFileError(f"{path}: its two keys are not a pair")
    return KeyPair(public, secret)


def read_public(given: str) -> bytes:
    """Return a public key given as itself or as a file, ``NAME.key``.

    Raises:
        KeyFileError: if it is neither.
    """
    if len(given) == 40 and not Path(given).exists():
        return _checked(given, given.encode(errors="replace"))
    return _read(Path(given))[0]


def read_client_keys(server_key: str | None, key: str | Path | None) -> ClientKeys | None:
    """Return what a client needs for a publisher with keys; None for one without.

    Args:
        server_key: the publisher's public key, as a file or its 40 characters.
        key: the file of the client's own secret key.

    Raises:
        KeyFileError: if only one of them is given, or one cannot be used.
    """
    if (server_key is None) != (key is None):
        raise KeyFileError("a server's key and a client's key go together; only one was given")
    return ClientKeys(read_public(server_key), read_pair(Path(key))) if server_key and key else None


def allow(folder: Path, name: str, key: bytes) -> Path:
    """Add a client to a list, or replace its key; return its file.

    Raises:
        KeyFileError: if the name is none, the key is another's, or nothing can be written there.
    """
    check_name(name)
    for other, known in allowed(folder).items() if folder.is_dir() else ():
        if known == key and other != name:
            raise KeyFileError(f"{folder}: this key is there already, as {other}")
    path = folder / f"{name}.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{name}.{os.getpid()}"  # a publisher may read the folder at any moment
        fresh.write_text(f'curve\n    public-key = "{key.decode()}"\n')
        fresh.replace(path)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    return path


def allowed(folder: Path) -> dict[str, bytes]:
    """Return the clients of a list, by name.

    Raises:
        KeyFileError: if it is no folder, or something in it is no key.
    """
    if not folder.is_dir():
        raise KeyFileError(f"{folder}: no such folder; python -m stream.keys allow makes it")
    files = sorted(folder.glob("*.key"))
    if len(files) > MAX_CLIENTS:
        raise KeyFileError(f"{folder}: {len(files)} clients; at most {MAX_CLIENTS} are expected")
    return {path.stem: _read(path)[0] for path in files}


def remove(folder: Path, name: str) -> None:
    """Take a client off a list.

    Raises:
        KeyFileError: if it is not on it.
    """
    check_name(name)
    try:
        (folder / f"{name}.key").unlink()
    except OSError as error:
        raise KeyFileError(f"{folder}: no client {name} ({error.strerror}); there are {_names(folder)}") from None


def check_name(name: str) -> None:
    """Refuse a name that would make an odd file.

    Raises:
        KeyFileError: if it is one.
    """
    if not NAME.fullmatch(name):
        raise KeyFileError(f"{name!r}: a name of letters, digits, '_', '-' and '.' is expected, 64 at most")


class AllowedClients:
    """Asked by pyzmq's authenticator about every client that connects; a change of the folder counts from the next.

    Whoever has the publisher's own key, as its live view has, is let in too.
    """

    def __init__(self, folder: Path, own: bytes) -> None:
        self._folder, self._own = folder, own

    def callback(self, _domain: str, key: bytes) -> bool:
        """Tell whether a client with this public key is let in; a list that cannot be read lets nobody in."""
        try:
            return key == self._own or key in allowed(self._folder).values()
        except (KeyFileError, OSError):
            return False


def is_local(endpoint: str) -> bool:
    """Tell whether only this machine can reach what is bound to an endpoint."""
    transport, _, rest = endpoint.partition("://")
    if transport in ("ipc", "inproc"):
        return True
    host = rest.rpartition(":")[0].strip("[]")
    if host in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # an interface's name, or * for all
        return False


def check_exposure(endpoint: str, curve: bool, insecure: bool) -> None:
    """Refuse to show anyone on the network what is published, unless told to.

    Raises:
        ValueError: if neither keys nor the word ``insecure`` go with an endpoint beyond loopback.
    """
    if curve and insecure:
        raise ValueError("'insecure: true' goes with no keys; leave out one or the other")
    if not (curve or insecure or is_local(endpoint)):
        raise ValueError(
            f"{endpoint} can be reached from other machines; give publish.key and publish.clients "
            "(python -m stream.keys makes them), or say 'insecure: true' to let anyone listen"
        )


def _read(path: Path) -> tuple[bytes, bytes | None]:
    try:
        if path.is_file() and path.stat().st_size > KEY_FILE_BYTES:
            raise KeyFileError(f"{path}: {path.stat().st_size} bytes; no key is that large")
        if path.exists() and not path.is_file():
            raise KeyFileError(f"{path}: not a file; a key as python -m stream.keys makes it is expected")
        public, secret = zmq.auth.load_certificate(path)
    except OSError as error:
        reason = error.strerror or "no such file"
        raise KeyFileError(f"{path}: {reason}; a key of python -m stream.keys is expected") from None
    except (ValueError, IndexError):
        raise KeyFileError(f"{path}: not a key; python -m stream.keys makes one") from None
    return _checked(str(path), public), None if secret is None else _checked(str(path), secret)


def _checked(what: str, key: bytes) -> bytes:
    try:
        good = len(key) == 40 and len(z85.decode(key)) == 32
    except (KeyError, ValueError, struct.error):
        good = False
    if not good:
        raise KeyFileError(f"{what}: not a key; 40 characters of Z85 are expected, as python -m stream.keys makes")
    return key


def _names(folder: Path) -> str:
    return ", ".join(path.stem for path in sorted(folder.glob("*.key"))[:20]) or "none"
