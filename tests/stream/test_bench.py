"""The bench, from outside: real processes under load, and accounts that add up."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stream.bench_listener import COLUMNS, STAGES_HEARD, Heard
from stream.bench_run import bench as command
from stream.bench_run import what_does_not_add_up

ROOT = Path(__file__).parents[2]
PERCENTILES = {"p50", "p90", "p99", "p999", "max"}


def bench(*arguments: object, code: int = 0) -> dict:
    command = [sys.executable, "-m", "stream.bench", *map(str, arguments), "--json", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else {"error": done.stderr}


def test_every_frame_that_was_due_is_accounted_for(tmp_path: Path) -> None:
    """Two cameras for three seconds: 180 frames, published or dropped, every message received; all figures there."""
    plot = tmp_path / "late.png"
    drawn = importlib.util.find_spec("matplotlib") is not None
    figures = bench(
        "--streams", 2, "--size", "96x64", "--bits", 16, "--engine", "null", "--seconds", 3,
        *(["--plot", plot] if drawn else []),
    )  # fmt: skip
    accounts = figures["accounts"]
    assert accounts["generated"] == 180
    assert accounts["generated"] == accounts["published"] + sum(accounts["dropped_by_reason"].values())
    assert accounts["received"] == accounts["published"]
    assert accounts["missed"] == 0
    assert [stream["frames"] for stream in figures["streams"]] == [90, 90]
    assert set(figures["stages_ms"]) == set(STAGES_HEARD)
    for row in (figures["end_to_end_ms"], figures["without_engine_ms"], *figures["stages_ms"].values()):
        assert set(row) == PERCENTILES
        assert 0 <= row["p50"] <= row["p90"] <= row["p99"] <= row["p999"] <= row["max"]
    names = {process["name"] for process in figures["processes"]}
    assert {"supervisor", "capture camera0", "capture camera1", "infer", "track", "subscriber"} <= names
    assert all(process["memory_mb"] > 0 for process in figures["processes"])
    assert plot.exists() is drawn


def test_too_slow_an_engine_drops_the_stale_frames_and_serves_everyone() -> None:
    """Four cameras ask for three times what the engine can do: a third is published, no stream has under 80 % of its
    share, and what is published is never older than the frames that came while the engine was busy."""
    streams, fps, seconds = 4, 20, 4
    engine_ms = 3 * 1e3 / (streams * fps)
    figures = bench(
        "--streams", streams, "--fps", fps, "--size", "96x64", "--engine", f"null:{engine_ms}", "--seconds", seconds
    )  # fmt: skip
    accounts = figures["accounts"]
    assert accounts["generated"] == streams * fps * seconds
    assert set(accounts["dropped_by_reason"]) <= {"superseded", "lost by the camera", "no free slot"}
    assert accounts["dropped_by_reason"]["superseded"] > accounts["generated"] / 3
    share = accounts["published"] / streams
    assert all(stream["published"] >= 0.8 * share for stream in figures["streams"])
    # Two frame periods and two engine times are 175 ms; a queue that grew would end at over 2 s. A crowded machine
    # lends the slowest some.
    bound_ms = 2e3 / fps + 2 * engine_ms
    assert figures["end_to_end_ms"]["p50"] < bound_ms
    assert figures["end_to_end_ms"]["p99"] < bound_ms + 200


def test_accounts_that_do_not_add_up_are_said() -> None:
    """A frame that nobody counted, and a message that vanished without a gap, have a line each."""
    good = {"name": "a", "frames": 10, "published": 8, "dropped": 2, "received": 8, "missed": 0}
    assert what_does_not_add_up({"streams": [good]}) == []
    assert what_does_not_add_up({"streams": [{**good, "received": 6, "missed": 2}]}) == []
    lost = what_does_not_add_up({"streams": [{**good, "published": 7, "received": 7}]})
    assert lost == ["a: 10 frames were generated, but 7 published and 2 dropped"]
    gone = what_does_not_add_up({"streams": [{**good, "received": 7}]})
    assert gone == ["a: 8 were published, but 7 received and 0 missed"]


def test_a_stage_is_the_time_since_the_stage_before() -> None:
    """Times since a frame was due become the time that each stage took."""
    times = np.arange(1, len(STAGES_HEARD) + 1) ** 2
    rows = np.array([[0, 5, 77, *times]])
    assert rows.shape[1] == len(COLUMNS)
    assert Heard(rows, {}).stages_ns().tolist() == [[1, 3, 5, 7, 9, 11, 13]]
    assert Heard(rows, {}).without_engine_ns().tolist() == [36 - 5]


BAD = {
    "a size that is none": ({"size": "large"}, "--size large"),
    "bits that no camera has": ({"bits": 12}, "--bits 12"),
    "no rate": ({"fps": 0.0}, "--fps 0"),
    "no time": ({"seconds": float("nan")}, "--seconds nan"),
    "a plot into no folder": ({"plot": Path("no/such/p.png")}, "no/such"),
    "a plot of another kind": ({"plot": Path("p.jpg")}, ".png"),
    "a model that is none": ({"model": "rpcanet_minus"}, "no such model"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_answered_with_one_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the option and what would be right."""
    arguments, said = BAD[case]
    with pytest.raises(SystemExit) as ended:
        command(**arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
