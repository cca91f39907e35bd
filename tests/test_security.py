"""What comes from outside cannot run code or claim the memory, nothing goes out: no pickle, safe YAML, sizes."""

from __future__ import annotations

import ast
import os
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stream.sources.base import SourceError
from stream.sources.images import read_image
from stream.sources.video import VideoSource

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "run_pipeline.py", *sorted(p for name in ("engine", "stream") for p in (ROOT / name).rglob("*.py"))]
PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
SAFE_YAML = {"safe_load", "safe_dump", "SafeLoader", "MappingNode", "ScalarNode", "YAMLError", "MarkedYAMLError"}


def imports(tree: ast.AST) -> set[str]:
    """Return the modules that a file imports, by full name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path: Path) -> None:
    """No pickler is imported, no array is loaded with one, no pipe or queue between workers uses one.

    One use is left, in Python itself: multiprocessing hands a worker its first arguments pickled, from the process that
    starts it to the process it has just started, over a pipe that no one else has; nothing from outside is in that
    path but what the configuration says, which is checked text. Afterwards workers speak MessagePack
    (``stream.frame.send`` and ``receive``), never ``Connection.send`` and ``recv``, which pickle.
    """
    tree = ast.parse(path.read_text())
    assert not {name.partition(".")[0] for name in imports(tree)} & PICKLERS
    pipes = any(name.startswith("multiprocessing") for name in imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called, of = node.func.attr, ast.unparse(node.func.value)
            if called in ("recv_pyobj", "send_pyobj"):
                pytest.fail(f"line {node.lineno}: {called} pickles")
            if pipes and called in ("recv", "send") and "publisher" not in of and of != "self":
                pytest.fail(f"line {node.lineno}: {of}.{called} may pickle; stream.frame.{called} does not")
            if of in ("multiprocessing", "_context") and called in ("Queue", "SimpleQueue", "JoinableQueue", "Manager"):
                pytest.fail(f"line {node.lineno}: {of}.{called} pickles")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_evaluates_text_or_loads_yaml_unsafely(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yaml":
            assert node.attr in SAFE_YAML
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"eval", "exec", "os.system", "os.popen"}
            assert all(keyword.arg != "shell" for keyword in node.keywords)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(side: int) -> bytes:
    rows = zlib.compress(bytes(side * (side + 1)), 1)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def test_an_image_whose_header_claims_the_memory_is_refused_unread(tmp_path: Path) -> None:
    """A file of 1 MB that would be 144 million pixels: refused before they are made, and in one line."""
    (tmp_path / "bomb.png").write_bytes(_png(12_000))
    program = (
        "import sys, pathlib\n"
        "from stream.sources.images import read_image\n"
        "try:\n    read_image(pathlib.Path(sys.argv[1]))\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(status.partition('VmHWM:')[2].split()[0])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, str(tmp_path / "bomb.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    says, memory = done.stdout.splitlines()
    assert says == f"SourceError {tmp_path / 'bomb.png'}: damaged, cut off, too large or not an image"
    assert int(memory) < 140_000, "kB: the pixels alone would be as many"


def test_an_image_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room
    with pytest.raises(SourceError, match=r"large\.png: 1099511627776 bytes; images of up to 268435456 are read"):
        read_image(tmp_path / "large.png")


def _h264(width: int, height: int, frames: int, noise: bool) -> bytes:
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = width, height, "yuv420p", Fraction(1, 10)
    codec.options = {"preset": "ultrafast"}
    out = b""
    for number in range(frames):
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane in frame.planes:
            random = np.random.default_rng(number).bytes(plane.buffer_size)
            plane.update(random if noise else bytes(plane.buffer_size))
        frame.pts = number
        out += b"".join(bytes(packet) for packet in codec.encode(frame))
    return out + b"".join(bytes(packet) for packet in codec.encode(None))


def test_a_video_that_grows_in_mid_stream_is_refused_before_the_frame_is_made(tmp_path: Path) -> None:
    """Past what FFmpeg looks at when it opens a file, its frames become 80 million pixels; the decoder refuses them."""
    path = tmp_path / "grows.h264"
    path.write_bytes(_h264(640, 480, 30, noise=True) + _h264(10_000, 8_000, 1, noise=False))
    source = VideoSource(path, live=False)
    assert all(source.read(10) is not None for _ in range(30))
    with pytest.raises(SourceError, match="damaged or cut off at frame 30"):
        source.read(10)
    source.close()


NETWORK = """
import socket, sys, time
from engine.base import load_engine

def refuse(*_, **__):
    print("looked up", *_)

socket.getaddrinfo = refuse
engine = load_engine("rpcanet_plus_k1", sys.argv[1])
engine.prepare(1, 64, 64)
time.sleep(0.5)
"""


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_no_backend_tells_its_maker_of_us(engine: str, tmp_path: Path) -> None:
    """Both would: they leave an identifier of the machine in the home folder first, and OpenVINO looks up a host."""
    hidden = ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")  # by which they fall silent
    told = {name: value for name, value in os.environ.items() if name not in hidden}
    told |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", NETWORK, engine]
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.rglob("*")) == []
