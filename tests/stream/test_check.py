"""The check opens what the run would, times what a frame costs, and says plainly whether the machine keeps up."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from engine.contract import ModelInfo, find_model
from stream import StreamError, check, check_lines
from stream.check import Check, usable_cpus
from stream.check_lines import describe
from stream.config import Config
from stream.publish import free_endpoint
from stream.sources.base import Source, SourceFrame, SourceInfo
from tests.conftest import INFO
from tests.pipeline import run

SCENE = "scene:?width=64&height=64&fps=10"


class Engine:
    """Takes as long a call as it is told, and sleeps meanwhile."""

    name, best_batch = "pretended", 4

    def __init__(self, model: str, seconds: float, bits: int) -> None:
        found = re.search(r"k(\d)", model)
        self.seconds = seconds
        self.info = ModelInfo(**{**vars(INFO), "bits": bits, "stages": int(found[1]) if found else 1})

    def prepare(self, batch: int, height: int, width: int) -> None:
        pass

    def infer(self, frames: np.ndarray, window: np.ndarray) -> np.ndarray:
        assert frames.dtype == np.uint8
        assert frames.ndim == (4 if self.info.bits == 8 else 5)
        assert window.shape == (len(frames), 2)
        time.sleep(self.seconds)
        return np.zeros(frames.shape[:4], np.uint8)


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that a call takes, by model; the models that are said to be shipped."""
    found = {"rpcanet_plus_k1": 0.001}
    monkeypatch.setattr(check, "load_engine", lambda model, device, bits, threads: Engine(model, found[model], bits))
    monkeypatch.setattr(check, "find_model", Path)
    for module in (check, check_lines):
        monkeypatch.setattr(module, "shipped_models", lambda: list(found))
    monkeypatch.setattr(check, "LOOK_S", 0.8)
    monkeypatch.setattr(check, "TIME_S", 0.01)
    monkeypatch.setattr(check, "OPEN_S", 10.0)
    return found


def look(*sources: str, model: str = "rpcanet_plus_k1", **changes: object) -> tuple[Check, str]:
    streams = [{"name": f"s{index}", "source": source} for index, source in enumerate(sources)]
    given = {"streams": streams, "model": model, "publish": {"endpoint": free_endpoint()}, **changes}
    config = Config.model_validate(given)
    found = check.check(config)
    return found, "\n".join(describe(found))


def test_a_machine_that_keeps_up_is_told_by_how_much(speeds: dict[str, float]) -> None:
    """Two cameras of 10 frames/s, 8 and 16 bit, and an engine of a millisecond: size, rate and depth are said."""
    found, said = look(SCENE, SCENE + "&bits=16")
    assert found.faults == []
    assert found.keeps_up
    assert [camera.shape for camera in found.cameras] == [(64, 64, 8), (64, 64, 16)]
    assert found.needed_fps == pytest.approx(20, rel=0.05)
    assert found.models[0].possible_fps > 20
    assert found.models[0].loads["engine"] == pytest.approx(
        sum(10 * cost.engine_ms / 1e3 for cost in found.models[0].costs.values()), rel=0.05
    )
    assert "s0: 64x64, 8 bit, 10.0 frames/s (it states 10), first frame after" in said
    assert "keeps up: 20 frames/s are needed" in said
    assert "suggested" not in said


def test_an_engine_that_is_too_slow_is_the_limit(speeds: dict[str, float]) -> None:
    """A call of 0.3 s for 10 frames/s: three times too slow, and what would help."""
    speeds["rpcanet_plus_k1"] = 0.3
    found, said = look(SCENE)
    assert not found.keeps_up
    assert found.models[0].limit == "engine"
    assert found.models[0].possible_fps < 3.4
    assert "does not keep up: 10 frames/s are needed, 3 possible" in said
    assert "the limit is the engine" in said
    assert "no shipped model keeps up" in said


def test_streams_of_one_size_share_a_batch(speeds: dict[str, float]) -> None:
    """Three cameras in a batch of three cost a third of a call each; a smaller batch that is asked for is kept to."""
    speeds["rpcanet_plus_k1"] = 0.06
    (cost,) = look(SCENE, SCENE, SCENE)[0].models[0].costs.values()
    assert 20 <= cost.engine_ms < 58
    (cost,) = look(SCENE, SCENE, SCENE, batch={"largest": 1})[0].models[0].costs.values()
    assert cost.engine_ms >= 60


def test_what_the_first_frames_alone_cost_is_not_taken_for_the_rate(
    speeds: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code is loaded before a run begins, and no frame pays for it: shared out over 36, it would be 100 ms."""
    calls, real = [], check.detect

    def slow_at_first(*given: object) -> object:
        if not calls:
            time.sleep(3.6)
        calls.append(given)
        return real(*given)

    monkeypatch.setattr(check, "detect", slow_at_first)
    found, _ = look(SCENE)
    (cost,) = found.models[0].costs.values()
    assert cost.track_ms < 100


@pytest.mark.parametrize(
    ("configured", "suggested"), [("k1", "k3"), ("k3", None), ("k6", "k3"), ("k1_robust", None)], ids=str
)
def test_the_largest_shipped_model_that_fits_is_suggested(
    speeds: dict[str, float], configured: str, suggested: str | None
) -> None:
    """Of one, three and six stages the last is too slow; three stages are the most that fit.

    Those for noisy sensors are not suggested, and to who has chosen one no other is.
    """
    speeds.clear()
    speeds.update({"k1": 0.0005, "k1_robust": 0.0005, "k3": 0.001, "k3_robust": 0.001, "k6": 0.5})
    found, said = look(SCENE, model=configured)
    assert found.models[0].model == configured
    assert {model.model: model.keeps_up for model in found.models} == {
        "k1": True, "k1_robust": True, "k3": True, "k3_robust": True, "k6": False,
    }  # fmt: skip
    assert (f"suggested: model: {suggested}" in said) if suggested else ("suggested" not in said)
    assert "no shipped model keeps up" not in said


def test_models_of_one_data_set_are_not_for_cameras() -> None:
    """What is shipped for comparison with published figures is neither timed nor suggested; few stages come first."""
    names = check.shipped_models()
    assert (names[0], names[-1]) == ("rpcanet_plus_k1", "rpcanet_plus_k6_int8")
    assert "rpcanet_plus_k1_nudt" not in names
    assert find_model("rpcanet_plus_k1_nudt").is_file()


def test_cameras_that_fail_are_named_and_the_others_are_looked_at(speeds: dict[str, float]) -> None:
    """One that refuses, one that is not there: a line each, without the password."""
    found, said = look("rtsp://user:hunter2@127.0.0.1:1/x", SCENE, "gone.mp4")
    assert [camera.fault is None for camera in found.cameras] == [False, True, False]
    assert "s0: FAILED: rtsp://user:***@127.0.0.1:1/x" in said
    assert "s2: FAILED: gone.mp4: no such file" in said
    assert "hunter2" not in said + json.dumps(found.as_json())
    assert len(found.models) == 1


class Silent(Source):
    """A camera that is there and gives no frame."""

    info = SourceInfo(64, 48, 8, 30.0, live=True)

    def read(self, timeout: float) -> SourceFrame | None:
        time.sleep(min(timeout, 0.05))
        return None

    def close(self) -> None:
        pass


def test_a_camera_that_gives_no_frame_is_a_fault(speeds: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for beyond its time, and the engine is not timed on nothing."""
    monkeypatch.setattr(check, "open_source", lambda uri, live: Silent())
    monkeypatch.setattr(check, "OPEN_S", 0.3)
    found, said = look(SCENE)
    assert found.faults == [f"s0: {SCENE}: no frame within 0.3 s"]
    assert found.models == []
    assert "nothing to time the engine on" in said


def test_files_need_no_rate(speeds: dict[str, float], tmp_path: Path) -> None:
    """They wait for the pipeline: what is possible is said, and nothing has to be kept up with."""
    import cv2

    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((48, 64), np.uint8))
    speeds["rpcanet_plus_k1"] = 0.1
    found, said = look(str(tmp_path))
    assert found.keeps_up
    assert "64x48, 8 bit, waits" in said
    assert "nothing here is live: it waits, and goes at up to" in said
    assert found.models[0].possible_fps <= 10


def test_a_folder_of_recordings_is_looked_at(speeds: dict[str, float], tmp_path: Path) -> None:
    """Less room than the recordings may take is a warning; no folder at all is an error."""
    _, said = look(SCENE, record={"folder": str(tmp_path / "new"), "max_gb": 1e6})
    assert f"warning: record.folder {tmp_path}/new: " in said
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StreamError, match="cannot be written"):
        look(SCENE, record={"folder": str(tmp_path / "file")})


def test_the_cores_are_those_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control group may allow less than the machine has."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(check, "CPU_MAX", tmp_path / "cpu.max")
    assert usable_cpus() == 4
    for text, cpus in (("150000 100000", 1.5), ("max 100000", 4), ("900000 100000", 4)):
        (tmp_path / "cpu.max").write_text(text)
        assert usable_cpus() == cpus


def test_the_command_prints_figures_alone_and_its_exit_code_answers() -> None:
    """With the real engine, and a camera that fails beside one that does not."""
    outcome = run("--check", "--source", SCENE, "--report", "-")
    found = json.loads(outcome.out)
    assert outcome.code == (0 if found["keeps_up"] else 1), outcome.err
    assert found["cameras"][0]["bits"] == 8
    assert found["models"][0]["costs"]["64x64, 8 bit"]["engine_ms"] > 0
    assert outcome.left == []
    outcome = run("--check", "--source", "rtsp://127.0.0.1:1/x")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: x: rtsp://127.0.0.1:1/x: ")


def test_a_busy_port_is_found_before_the_run() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        outcome = run("--check", "--source", SCENE, endpoint=endpoint)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert endpoint in line
