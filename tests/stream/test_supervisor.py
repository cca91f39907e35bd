"""The supervisor: the whole system is one table, and what cannot run is refused before anything starts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.contract import EngineError, ModelError
from stream import StreamError
from stream.config import Config, StreamConfig
from stream.frame import Publish, try_send
from stream.supervisor import Supervisor
from stream.system import process_table, wire


def config(*streams: StreamConfig, **changes: object) -> Config:
    return Config.model_validate({"streams": streams, **changes})


def test_the_table_has_a_process_a_camera_one_for_the_engine_and_one_for_the_tracks() -> None:
    streams = (StreamConfig(name="a", source="scene:"), StreamConfig(name="b", source="scene:?seed=2"))
    table = process_table(config(*streams), wire(2), thresholds={8: 0.5, 16: 0.6})
    assert [spec.name for spec in table] == ["track", "infer", "capture a", "capture b"]


@pytest.mark.parametrize(
    ("stream", "lossless"),
    [
        (StreamConfig(name="a", source=__file__), True),
        (StreamConfig(name="a", source=__file__, live=True), False),
        (StreamConfig(name="a", source="rtsp://camera/1"), False),
        (StreamConfig(name="a", source="rtsp://camera/1", live=False), False),
        (StreamConfig(name="a", source="/dev/video0"), False),
        (StreamConfig(name="a", source="scene:"), False),
        (StreamConfig(name="a", source="scene:", live=False), True),
    ],
)
def test_subscribers_may_slow_down_only_runs_that_wait(stream: StreamConfig, lossless: bool) -> None:
    track, *_ = process_table(config(stream), wire(1), thresholds={8: 0.5, 16: 0.6})
    assert track.arguments[0].lossless is lossless


def test_a_source_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=r"gone\.mp4"):
        Supervisor(config(StreamConfig(name="a", source=str(tmp_path / "gone.mp4"))), lambda _: None)


def test_a_model_that_is_not_there_is_refused_before_anything_starts() -> None:
    with pytest.raises(ModelError, match="no such model"):
        Supervisor(config(StreamConfig(name="a", source="scene:"), model="nothing"), lambda _: None)


def test_an_engine_that_is_none_is_refused_before_anything_starts() -> None:
    with pytest.raises(EngineError, match="steam: no such engine; there are auto, openvino"):
        Supervisor(config(StreamConfig(name="a", source="scene:"), engine="steam"), lambda _: None)


def test_a_model_for_16_bit_brings_its_own_threshold(tiny_model: Callable[..., Path]) -> None:
    """Where there is none beside it, both are that of the file that was named."""
    one = tiny_model(threshold=0.6)
    sky = StreamConfig(name="a", source="scene:")
    alone = Supervisor(config(sky, model=str(one)), lambda _: None)
    tiny_model("tiny_16bit.onnx", bits=16, threshold=0.8)
    both = Supervisor(config(sky, model=str(one)), lambda _: None)
    found = [each._workers["track"].spec.arguments[0].thresholds for each in (alone, both)]
    assert found == [{8: 0.6, 16: 0.6}, {8: 0.6, 16: 0.8}]


def test_a_tracker_that_takes_nothing_any_more_does_not_keep_a_run_from_ending() -> None:
    supervisor = Supervisor(config(StreamConfig(name="a", source="scene:"), engine="null"), lambda _: None)
    while try_send(supervisor._wiring.outbox[1], Publish("status/a", b"")):
        pass
    ending = threading.Thread(target=supervisor._end, args=(0.0,), daemon=True)
    ending.start()
    ending.join(timeout=20)
    assert not ending.is_alive()
