"""Compiled kernels: kept where that is possible, compiled all the same where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ADD = """
import sys
from stream.compiled import compiled

@compiled
def add(a, b):
    return a + b

assert add(2, 3) == 5
print(sum(add.stats.cache_hits.values()))
"""


def run(folder: Path, **env: str) -> str:
    root = str(Path(__file__).parents[2])
    script = folder / "kernels.py"
    if not script.exists():
        script.write_text(ADD)
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": root, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_code_is_kept_beside_its_source(tmp_path: Path) -> None:
    """The second process compiles nothing."""
    assert run(tmp_path) == "0"
    assert run(tmp_path) == "1"


def test_without_a_place_to_keep_it_it_is_compiled_every_time(tmp_path: Path) -> None:
    """Neither beside the source nor in a cache: a file where the folders should be is no place."""
    (tmp_path / "__pycache__").write_text("")
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("")
    env = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere / "cache"), "IPYTHONDIR": str(nowhere)}
    assert run(tmp_path, **env) == "0"
    assert run(tmp_path, **env) == "0"


@pytest.mark.parametrize(("files", "size"), [("*.nbi", 0), ("*.nbi", 100), ("*.nbc", 0), ("*.nbc", 1000)])
def test_code_that_is_cut_short_is_compiled_again(tmp_path: Path, files: str, size: int) -> None:
    """As a power cut leaves it; and the next process finds it whole."""
    assert run(tmp_path) == "0"
    for file in (tmp_path / "__pycache__").glob(files):
        os.truncate(file, size)
    assert run(tmp_path) == "0"
    assert run(tmp_path) == "1"
