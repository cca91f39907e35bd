"""Messages kept as they were first sent: other libraries read them, and so does every later version of this one."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest

from stream.messages import KINDS, decode, encode

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(kind: str) -> tuple[str, bytes, dict[str, Any]]:
    """Return a golden message's topic, payload, and what the payload means."""
    said = json.loads((GOLDEN / f"{kind}.json").read_text())
    return said["topic"], (GOLDEN / f"{kind}.msgpack").read_bytes(), said["payload"]


@pytest.mark.parametrize("kind", KINDS)
def test_msgpack_for_python_reads_it(kind: str) -> None:
    _, payload, content = golden(kind)
    assert msgpack.unpackb(payload) == content


def test_msgpack_for_javascript_reads_it() -> None:
    """Whole numbers beyond 2^53, which the times are, come as BigInt and lose no digit."""
    if shutil.which("node") is None:
        pytest.skip("no node; on Debian: apt-get install nodejs npm")
    if not (GOLDEN / "node_modules").is_dir():
        pytest.skip(f"no @msgpack/msgpack; npm ci --prefix {GOLDEN.relative_to(GOLDEN.parents[1])}")
    paths = [str(GOLDEN / f"{kind}.msgpack") for kind in KINDS]
    done = subprocess.run(
        ["node", "decode.mjs", *paths], cwd=GOLDEN, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [golden(kind)[2] for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_this_version_reads_it_and_still_says_all_of_it(kind: str) -> None:
    """Fields may be added in version 1; none may go, change its name, its type or its meaning."""
    topic, payload, content = golden(kind)
    message = decode(topic, payload)
    again_topic, again = encode(message)
    assert again_topic == topic
    assert holds(msgspec.msgpack.decode(again), content)


def holds(new: object, old: object) -> bool:
    """Tell whether ``new`` has all that ``old`` has; maps may have more."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and holds(new[key], value) for key, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(new) == len(old) and all(map(holds, new, old))
    return type(new) is type(old) and new == old
