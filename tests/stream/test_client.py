"""The client alone: what it needs, what it counts, and what a hostile publisher cannot make it do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import tomllib
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest
import zmq
from msgspec.structs import replace

from stream import StreamError
from stream.client import subscribe
from stream.messages import MAX_MESSAGE_BYTES, StatusMessage, TracksMessage, WireMessage, decode, encode
from stream.publish import Publisher

ROOT = Path(__file__).parents[2]


def tracks(seq: int, dropped: dict[str, int] | None = None, stream: str = "sky") -> TracksMessage:
    return TracksMessage(
        stream=stream, seq=seq, captured_utc_ns=0, captured_ns=0, published_ns=0, width=1, height=1,
        dropped=dropped or {}, stages={}, tracks=[],
    )  # fmt: skip


@pytest.fixture
def raw(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """A publisher that says what it likes."""
    context = zmq.Context()
    publisher = context.socket(zmq.XPUB)
    publisher.bind(endpoint)
    yield publisher
    publisher.close(linger=0)
    context.term()


def test_frames_that_were_skipped_without_a_word_are_counted_as_missed(endpoint: str, raw: zmq.Socket[bytes]) -> None:
    """Frames that the pipeline dropped are not, nor is a pipeline that begins again at 0."""
    sent = [tracks(5), tracks(6), tracks(9), tracks(12, {"superseded": 2}), tracks(0), tracks(2), tracks(7, stream="b")]
    with subscribe(endpoint, timeout=20) as messages:
        assert raw.poll(20_000)
        for message in sent:
            topic, payload = encode(message)
            raw.send_multipart([topic.encode(), payload])
        got = [next(messages) for _ in sent]
    assert got == sent
    assert dict(messages.missed) == {"sky": 3}


def status(frames: int, health: str, stream: str = "sky") -> StatusMessage:
    return StatusMessage(stream=stream, health=health, frames=frames, fps=0, dropped={}, latency_ms={}, tracks=0)


@pytest.mark.parametrize(
    ("published", "after", "missed"),
    [
        (7, [status(12, "ended")], {"sky": 5}),
        (7, [status(12, "ended"), status(12, "ended")], {"sky": 5}),
        (7, [status(7, "ended")], {"sky": 0}),
        (7, [status(12, "ok")], {}),
        (7, [status(12, "ended", stream="skyline")], {}),
        (0, [status(12, "ended")], {}),
    ],
    ids=["lost", "said twice", "none lost", "not ended", "of another stream", "a pipeline that does not number them"],
)
def test_frames_after_the_last_that_came_are_missed_once_their_stream_has_ended(
    endpoint: str, raw: zmq.Socket[bytes], published: int, after: list[WireMessage], missed: dict[str, int]
) -> None:
    """Status messages that nobody asked for are not given to anyone, and do not keep a timeout from coming."""
    sent = [replace(tracks(8, stream=name), published=published) for name in ("sky", "last")]
    with subscribe(endpoint, timeout=0.5) as messages:
        for _ in ("tracks", "status"):
            assert raw.poll(20_000)
            raw.recv()
        for message in (sent[0], *after, sent[1]):
            topic, payload = encode(message)
            raw.send_multipart([topic.encode(), payload])
        assert list(messages) == sent
    assert dict(messages.missed) == missed


def test_it_connects_again_and_counts_what_it_missed(endpoint: str) -> None:
    got: list[int] = []
    messages = subscribe(endpoint, timeout=20)

    def listen() -> None:
        for message in messages:
            assert isinstance(message, TracksMessage)
            got.append(message.seq)
            if message.seq == 6:
                return

    listener = threading.Thread(target=listen)
    listener.start()
    for seqs in ((0, 1), (5, 6)):
        publisher = Publisher(endpoint, lossless=True)
        publisher.wait_for(1)
        for seq in seqs:
            publisher.send(*encode(tracks(seq)))
        publisher.close()
    listener.join(timeout=30)
    messages.close()
    assert got == [0, 1, 5, 6]
    assert messages.missed["sky"] == 3
    assert list(messages) == []


def _nested() -> bytes:
    return b"\x81" + msgpack.packb("later") + b"\x91" * 1_000_000


HOSTILE: dict[str, list[bytes]] = {
    "one part": [b"tracks/sky"],
    "three parts": [b"tracks/sky", b"\x80", b"\x80"],
    "a topic that is no text": [b"tracks/\xff\xfe", b"\x80"],
    "an empty payload": [b"tracks/sky", b""],
    "nested a million deep": [b"tracks/sky", _nested()],
    "a list said to have 4 billion tracks": [b"tracks/sky", b"\x81" + msgpack.packb("tracks") + b"\xdd" + b"\xff" * 4],
    "a text said to have 4 GB": [b"tracks/sky", b"\x81" + msgpack.packb("stream") + b"\xdb" + b"\xff" * 4],
    "another schema": [
        b"tracks/sky", encode(tracks(0))[1].replace(b"irstream.tracks/1", b"irstream.tracks/2")
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.replace(" ", "-"))
def test_what_is_no_message_is_a_value_error_and_the_next_one_comes(
    case: str, endpoint: str, raw: zmq.Socket[bytes]
) -> None:
    with subscribe(endpoint, timeout=20) as messages:
        assert raw.poll(20_000)
        raw.send_multipart(HOSTILE[case])
        topic, payload = encode(tracks(3))
        raw.send_multipart([topic.encode(), payload])
        with pytest.raises(ValueError, match=r"topic|parts"):
            next(messages)
        assert next(messages) == tracks(3)


def test_a_message_that_is_too_large_is_never_taken_in(endpoint: str, raw: zmq.Socket[bytes]) -> None:
    """ZeroMQ hangs up on it for good, which the client says instead of waiting for ever."""
    with subscribe(endpoint, timeout=20) as messages:
        assert raw.poll(20_000)
        raw.send_multipart([b"tracks/sky", bytes(MAX_MESSAGE_BYTES + 1)])
        with pytest.raises(StreamError, match="sent what is no message, or one of more than 4194304 bytes"):
            next(messages)
    with pytest.raises(ValueError, match="at most"):
        decode("tracks/sky", bytes(MAX_MESSAGE_BYTES + 1))


def test_the_largest_message_fits(endpoint: str) -> None:
    """Ten thousand tracks, the most that a stream may have."""
    full = msgpack.unpackb((ROOT / "tests/golden/tracks.msgpack").read_bytes())
    full["tracks"] = [full["tracks"][-1]] * 10_000
    assert len(msgpack.packb(full)) < MAX_MESSAGE_BYTES


def test_a_subscriber_cannot_send_much_to_the_publisher(endpoint: str) -> None:
    """What is larger than a topic ends its connection; the others do not notice."""
    publisher = Publisher(endpoint, lossless=False)
    context = zmq.Context()
    loud = context.socket(zmq.SUB)
    loud.connect(endpoint)
    loud.subscribe(b"truth/" + b"x" * 2_000)
    with subscribe(endpoint, timeout=20) as messages:
        publisher.wait_for(1)
        publisher.send(*encode(tracks(0)))
        assert next(messages) == tracks(0)
    assert not publisher.wants("truth/" + "x" * 2_000)
    loud.close(linger=0)
    context.term()
    publisher.close()


@pytest.mark.parametrize("page", ["README.md", "client/README.md", "docs/wire.md"])
def test_the_examples_of_the_documentation_run(page: str, endpoint: str) -> None:
    """Each that listens in Python, as it is printed but for the port, prints something of the first message."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    examples = [block for block in blocks if "tcp://127.0.0.1:5560" in block]
    assert examples
    payload = (ROOT / "tests/golden/tracks.msgpack").read_bytes()
    for example in examples:
        publisher = Publisher(endpoint, lossless=True)
        command = [sys.executable, "-u", "-c", example.replace("tcp://127.0.0.1:5560", endpoint)]
        with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) as client:
            publisher.wait_for(1)
            publisher.send("tracks/north-gate", payload)
            assert client.stdout is not None
            line = client.stdout.readline()
            client.kill()
        publisher.close()
        assert "north-gate" in line


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen[str]]:
    """Install the client beside pyzmq and msgspec and nothing else; return what runs its Python."""
    folder = tmp_path_factory.mktemp("light")
    shutil.copytree(ROOT / "client", folder / "src" / "client", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    for package in ("engine", "stream"):
        shutil.copytree(ROOT / package, folder / "src" / package, ignore=shutil.ignore_patterns("models"))
    venv.create(folder / "venv", with_pip=False)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    for name in ("zmq", "pyzmq.libs", "msgspec"):
        if (there := Path(sysconfig.get_path("platlib")) / name).exists():
            (packages / name).symlink_to(there)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--target", packages, folder / "src" / "client"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [folder / "venv" / "bin" / "python", *arguments]
        return subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return run


def test_pip_puts_it_in_the_place_of_the_whole_and_the_other_way_round() -> None:
    """Both own ``stream/client.py``: as two packages, taking one away would break the other."""
    whole, client = (
        tomllib.loads((ROOT / where / "pyproject.toml").read_text())["project"] for where in (".", "client")
    )
    assert client["name"] == whole["name"]
    assert client["version"] == f"{whole['version']}+client"


def test_the_client_installs_and_runs_without_the_pipeline(
    light: Callable[..., subprocess.Popen[str]], endpoint: str
) -> None:
    program = (
        "import sys, stream.client\n"
        "assert not {'numpy', 'cv2', 'pydantic', 'typer', 'av', 'onnx', 'yaml'} & set(sys.modules)\n"
        f"for message in stream.client.subscribe({endpoint!r}, timeout=60):\n"
        "    print(message.stream, message.seq)\n"
        "    break\n"
    )
    client = light("-c", program)
    publisher = Publisher(endpoint, lossless=True)
    publisher.wait_for(1)
    publisher.send(*encode(tracks(41)))
    out, err = client.communicate(timeout=60)
    publisher.close()
    assert (out, err) == ("sky 41\n", "")


@pytest.mark.parametrize("module", ["stream.subscribe", "stream.keys"])
def test_its_commands_say_what_they_need(light: Callable[..., subprocess.Popen[str]], module: str) -> None:
    client = light("-m", module, "--help")
    _, err = client.communicate(timeout=60)
    assert client.returncode == 2
    assert err == "error: this command needs typer: pip install './client[cli]'\n"
