"""A camera on the network, through the whole pipeline: a real RTSP server that goes away and comes back."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path

from stream.frame import RESTART
from stream.record import find_streams, read_frames, segments
from tests.pipeline import Run, tracks_of, wait_until
from tests.stream.sources.live import free_port, rtsp_server

PASSWORD = "p4ss-w0rd"
CONFIG = """
engine: "null"
streams:
  - {{name: camera, source: "rtsp://viewer:{password}@127.0.0.1:{port}/ir"}}
  - {{name: other, source: "scene:?width=64&height=64&fps=30"}}
record: {{folder: {folder}}}
"""


def test_an_rtsp_camera_goes_away_and_comes_back(tmp_path: Path) -> None:
    """The other stream goes on, what was missed is counted, times are the camera's own; nobody hears the password."""
    port = free_port()
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(password=PASSWORD, port=port, folder=tmp_path / "kept"))
    with rtsp_server(port, "--password", PASSWORD):
        run = Run("--config", config, "--report", tmp_path / "r.json", "--log-json")
        before = run.listen(lambda seen: sum(m["camera_utc_ns"] is not None for m in tracks_of(seen, "camera")) > 20)
    run.listen(lambda seen: len(tracks_of(seen, "other")) > 60)  # in which what was on its way has come
    away = run.listen(lambda seen: len(tracks_of(seen, "other")) > 60)
    with rtsp_server(port, "--password", PASSWORD):
        again = run.listen(lambda seen: len(tracks_of(seen, "camera")) > 20)
        os.kill(run.process.pid, signal.SIGINT)
        outcome = run.end()
    assert (outcome.code, outcome.left) == (0, []), outcome.err

    seen = tracks_of(before, "camera")
    for earlier, later in itertools.pairwise(m for m in seen if m["camera_utc_ns"]):
        frames = later["seq"] - earlier["seq"]
        assert abs(later["camera_utc_ns"] - earlier["camera_utc_ns"] - frames * 40_000_000) < 20_000_000
        assert abs(later["camera_ns"] - earlier["camera_ns"] - frames * 40_000_000) < 1_000_000
    assert (
        not tracks_of(away, "camera")[-1:]
        or tracks_of(away, "camera")[-1]["seq"] < tracks_of(again, "camera")[0]["seq"]
    )
    assert not tracks_of(away, "camera")
    first = tracks_of(again, "camera")[0]
    assert first["seq"] - seen[-1]["seq"] > 25
    assert first["dropped"]["lost by the camera"] > 25
    assert [m["seq"] for m in tracks_of(away, "other")] == sorted({m["seq"] for m in tracks_of(away, "other")})

    kept = [record for stem in segments(find_streams(tmp_path / "kept")["camera"]) for record, _ in read_frames(stem)]
    told = {m["seq"]: m["camera_utc_ns"] for m in seen}
    assert {told[record.seq] - record.camera_utc_ns for record in kept if told.get(record.seq)} == {0}

    said = outcome.out + outcome.err + (tmp_path / "r.json").read_text() + repr([*before, *away, *again])
    assert PASSWORD not in said
    assert "away" in outcome.err
    assert "back after" in outcome.err
    assert not any(PASSWORD.encode() in path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())


def test_a_camera_whose_worker_dies_while_it_is_away_is_looked_for(tmp_path: Path) -> None:
    """It is not given up, though there is nothing to open; a stop meanwhile is heard as well."""
    port = free_port()
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG.format(password=PASSWORD, port=port, folder=tmp_path / "kept"))
    with rtsp_server(port, "--password", PASSWORD):
        run = Run("--config", config, "--report", tmp_path / "r.json")
        before = run.listen(lambda seen: len(tracks_of(seen, "camera")) > 20)
    for _ in range(2):
        victim = run.worker("capture camera")
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda dead=victim: run.worker("capture camera") != dead, 30, "the worker that takes its place")
        run.listen(lambda seen: len(tracks_of(seen, "other")) > 45)
    with rtsp_server(port, "--password", PASSWORD):
        again = run.listen(lambda seen: len(tracks_of(seen, "camera")) > 20)
    os.kill(run.worker("capture camera"), signal.SIGKILL)
    run.listen(lambda seen: len(tracks_of(seen, "other")) > 45)
    os.kill(run.process.pid, signal.SIGINT)
    outcome = run.end()
    assert (outcome.code, outcome.left) == (0, []), outcome.err
    first = tracks_of(again, "camera")[0]
    assert first["seq"] > tracks_of(before, "camera")[-1]["seq"] + 25
    assert first["dropped"][RESTART] > 25
    camera, other = json.loads((tmp_path / "r.json").read_text())["streams"]
    assert camera["restarts"] == {"capture camera: the worker died (signal 9)": 3}
    assert camera["frames"] == camera["published"] + camera["dropped"]
    assert (camera["fault"], other["fault"], other["restarts"]) == (None, None, {})
    assert outcome.err.count("away (") >= 3
    assert PASSWORD not in outcome.err
