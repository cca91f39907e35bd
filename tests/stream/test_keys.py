"""Who may listen: keys, the list of clients, and what is refused before anyone on the network sees it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from stream import StreamError
from stream.client import subscribe
from stream.config import ConfigError, load_config
from stream.curve import (
    AllowedClients,
    KeyFileError,
    ServerCurve,
    allow,
    allowed,
    is_local,
    make_pair,
    read_pair,
    read_public,
    remove,
)
from stream.messages import TracksMessage, encode
from stream.publish import Publisher

MESSAGE = TracksMessage(
    stream="sky", seq=0, captured_utc_ns=0, captured_ns=0, published_ns=0, width=1, height=1, dropped={}, stages={},
    tracks=[],
)  # fmt: skip


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Pairs of a server, of alice, who may listen, and of mallory, who may not."""
    for name in ("server", "alice", "mallory"):
        make_pair(tmp_path, name)
    allow(tmp_path / "clients", "alice", read_public(str(tmp_path / "alice.key")))
    return tmp_path


@pytest.fixture
def curve(keys: Path) -> ServerCurve:
    return ServerCurve(keys / "server.key_secret", keys / "clients")


@pytest.fixture
def publish() -> Iterator[Callable[[str, ServerCurve | None], None]]:
    """Publish one message over and over until the test has ended."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def start(endpoint: str, curve: ServerCurve | None) -> None:
        publisher = Publisher(endpoint, False, curve)

        def send() -> None:
            while not over.wait(0.02):
                publisher.send(*encode(MESSAGE))
            publisher.close()

        threads.append(threading.Thread(target=send))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()


Publish = Callable[[str, ServerCurve | None], None]


def first(endpoint: str, keys: Path | None = None, server: str = "server", client: str = "alice") -> object:
    """Return the first message that a client gets."""
    given = {"server_key": str(keys / f"{server}.key"), "key": keys / f"{client}.key_secret"} if keys else {}
    with subscribe(endpoint, timeout=20, **given) as messages:
        return next(messages)


def test_a_client_on_the_list_gets_messages(endpoint: str, keys: Path, curve: ServerCurve, publish: Publish) -> None:
    publish(endpoint, curve)
    assert first(endpoint, keys) == MESSAGE


def test_who_is_not_on_the_list_is_told_so_and_may_come_once_added(
    endpoint: str, keys: Path, curve: ServerCurve, publish: Publish
) -> None:
    publish(endpoint, curve)
    with pytest.raises(StreamError, match=r"does not let this client in; its public key, .{40}, is not on its list"):
        first(endpoint, keys, client="mallory")
    allow(keys / "clients", "mallory", read_public(str(keys / "mallory.key")))
    assert first(endpoint, keys, client="mallory") == MESSAGE
    remove(keys / "clients", "alice")
    with pytest.raises(StreamError, match="not on its list"):
        first(endpoint, keys)


def test_a_wrong_server_key_is_said_within_seconds(
    endpoint: str, keys: Path, curve: ServerCurve, publish: Publish
) -> None:
    publish(endpoint, curve)
    with pytest.raises(StreamError, match="the server's key given here is not its own"):
        first(endpoint, keys, server="mallory")


def test_keys_on_one_side_alone_are_said(endpoint: str, keys: Path, curve: ServerCurve, publish: Publish) -> None:
    publish(endpoint, curve)
    with pytest.raises(StreamError, match="asks for keys"):
        first(endpoint)


def test_keys_for_a_publisher_without_are_said(endpoint: str, keys: Path, publish: Publish) -> None:
    publish(endpoint, None)
    with pytest.raises(StreamError, match=r"has no keys|is not its own"):  # ZeroMQ cannot always tell which
        first(endpoint, keys)


def test_a_list_that_cannot_be_read_lets_nobody_in(keys: Path) -> None:
    """Not even those whose keys in it are good."""
    alice = read_public(str(keys / "alice.key"))
    assert AllowedClients(keys / "clients", b"the publisher").callback("", alice)
    (keys / "clients" / "broken.key").write_text("?")
    assert not AllowedClients(keys / "clients", b"the publisher").callback("", alice)
    assert not AllowedClients(keys / "gone", b"the publisher").callback("", alice)
    assert AllowedClients(keys / "gone", b"the publisher").callback("", b"the publisher")  # its own view


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("tcp://127.0.0.1:5560", True),
        ("tcp://127.9.9.9:5560", True),
        ("tcp://localhost:5560", True),
        ("tcp://[::1]:5560", True),
        ("tcp://lo:5560", True),
        ("ipc:///tmp/tracks", True),
        ("tcp://*:5560", False),
        ("tcp://0.0.0.0:5560", False),
        ("tcp://[::]:5560", False),
        ("tcp://192.168.1.7:5560", False),
        ("tcp://eth0:5560", False),
        ("tcp://127.0.0.1.example.org:5560", False),
        ("tcp://localhost.example.org:5560", False),
        ("tcp://5560", False),
    ],
)
def test_what_only_this_machine_can_reach(endpoint: str, local: bool) -> None:
    assert is_local(endpoint) is local


STREAMS = "streams: [{name: a, source: 'scene:'}]\n"


@pytest.mark.parametrize(
    ("publish", "says"),
    [
        ("tcp://0.0.0.0:5560", "tcp://0.0.0.0:5560 can be reached from other machines"),
        ("{endpoint: 'tcp://*:5560'}", r"can be reached from other machines; give publish.key and publish.clients"),
        ("{key: a.key_secret}", "key and clients go together"),
        ("{endpoint: 'tcp://*:5560', key: a, clients: b, insecure: true}", "goes with no keys"),
        ("{insecure: maybe}", "publish.insecure"),
    ],
)
def test_a_configuration_that_would_let_anyone_listen_says_so_or_is_refused(
    tmp_path: Path, publish: str, says: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{STREAMS}publish: {publish}\n")
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_beyond_loopback_goes_with_keys_or_the_word_and_loopback_with_neither(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for publish in (
        "tcp://127.0.0.1:5599",
        "{endpoint: 'tcp://*:5560', insecure: true}",
        "{endpoint: 'tcp://*:5560', key: keys/server.key_secret, clients: keys/clients}",
    ):
        path.write_text(f"{STREAMS}publish: {publish}\n")
        load_config(path)
    path.write_text(f"{STREAMS}publish: tcp://127.0.0.1:5599\n")
    assert load_config(path).publish.endpoint == "tcp://127.0.0.1:5599"
    assert load_config(path, {"publish.wait_for": 1}).publish.endpoint == "tcp://127.0.0.1:5599"


def test_the_publisher_itself_refuses_what_a_configuration_would() -> None:
    with pytest.raises(StreamError, match="other machines"):
        Publisher("tcp://0.0.0.0:5560", lossless=False)


def _others_can_read(folder: Path) -> Path:
    (folder / "alice.key_secret").chmod(0o644)
    return folder / "alice.key_secret"


def _not_a_pair(folder: Path) -> Path:
    path = folder / "alice.key_secret"
    path.write_text(path.read_text().replace(read_pair(path).public.decode(), zmq.curve_keypair()[0].decode()))
    return path


def _large(folder: Path) -> Path:
    (folder / "large").write_bytes(b"#" * 1_000_000)
    return folder / "large"


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


def _text(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "text").write_text(text)
        return folder / "text"

    return write


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "gone", "no such file"),
        (lambda folder: folder / "alice.key", "no secret key"),
        (lambda folder: folder, "not a file"),
        (_others_can_read, "others may read or change this secret key .mode 644.; chmod 600"),
        (_not_a_pair, "not a pair"),
        (_large, "1000000 bytes; no key is that large"),
        (_fifo, "not a file"),
        (_text("hello"), "not a key"),
        (_text("public-key"), "not a key"),
        (_text('public-key = "short"'), "not a key"),
        (_text(f'public-key = "{"~" * 40}"'), "not a key"),
        (_text(f'public-key = "{"#" * 40}"'), "not a key"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(keys: Path, make: Callable[[Path], Path], says: str) -> None:
    path = make(keys)
    with pytest.raises(KeyFileError, match=says) as caught:
        read_pair(path)
    assert str(path) in str(caught.value)


def test_a_service_may_share_its_key_with_its_group(keys: Path) -> None:
    (keys / "alice.key_secret").chmod(0o640)
    assert read_pair(keys / "alice.key_secret").public == read_public(str(keys / "alice.key"))


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65])
def test_a_name_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    for act in (lambda: make_pair(tmp_path, name), lambda: allow(tmp_path, name, b""), lambda: remove(tmp_path, name)):
        with pytest.raises(KeyFileError, match="a name of letters"):
            act()


def test_one_key_has_one_name(keys: Path) -> None:
    with pytest.raises(KeyFileError, match="there already, as alice"):
        allow(keys / "clients", "bob", read_public(str(keys / "alice.key")))
    allow(keys / "clients", "alice", read_public(str(keys / "mallory.key")))
    assert allowed(keys / "clients") == {"alice": read_public(str(keys / "mallory.key"))}


def keys_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "stream.keys", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_makes_keys_that_only_their_owner_reads_and_keeps_the_list(tmp_path: Path) -> None:
    made = keys_command(tmp_path, "make", "alice")
    public, secret = tmp_path / "keys" / "alice.key", tmp_path / "keys" / "alice.key_secret"
    assert (made.returncode, secret.stat().st_mode & 0o777) == (0, 0o600), made.stderr
    key = read_pair(secret).public.decode()
    assert key in made.stdout
    assert read_pair(secret).secret.decode() not in made.stdout
    assert keys_command(tmp_path, "allow", "alice", str(public)).returncode == 0
    assert keys_command(tmp_path, "list").stdout == f"alice {key}\n"
    assert keys_command(tmp_path, "remove", "alice").returncode == 0
    again = keys_command(tmp_path, "make", "alice")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "it is there already" in again.stderr
