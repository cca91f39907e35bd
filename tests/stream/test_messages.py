"""The wire format, as another program sees it: MessagePack maps, decoded by another library."""

from __future__ import annotations

import msgpack
import pytest

from stream.messages import StatusMessage, TracksMessage, TruthMessage, WirePoint, WireTrack, decode, encode

TRACK = WireTrack(
    id=7, state="confirmed", x=12.5, y=30.25, vx=-3.0, vy=0.5, cov=[0.25] * 16, score=9.5, area=6.0, peak=0.9,
    scr=4.2, hits=12, age=14,
)  # fmt: skip
MESSAGES = [
    TracksMessage(
        stream="sky", seq=41, captured_utc_ns=1_700_000_000_000_000_000, captured_ns=5_000, published_ns=9_000,
        width=320, height=256, dropped={"superseded": 2}, stages={"capture": 100, "publish": 4_000}, tracks=[TRACK],
    ),
    TruthMessage(stream="sky", seq=41, targets=[WirePoint(id=3, x=1.5, y=2.5)]),
    StatusMessage(
        stream="sky", health="ok", frames=41, fps=30.0, dropped={}, latency_ms={"p50": 9.0, "p99": 12.0, "max": 14.0},
        tracks=1,
    ),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire(message: TracksMessage) -> None:
    topic, payload = encode(message)
    assert decode(topic, payload) == message


def test_another_library_reads_every_field_of_version_1() -> None:
    topic, payload = encode(MESSAGES[0])
    content = msgpack.unpackb(payload)
    assert topic == "tracks/sky"
    assert set(content) == {
        "schema", "stream", "seq", "captured_utc_ns", "captured_ns", "published_ns", "width", "height", "dropped",
        "stages", "tracks", "camera_ns", "camera_utc_ns", "published",
    }  # fmt: skip
    assert content["schema"] == "irstream.tracks/1"
    assert content["tracks"] == [
        {
            "id": 7, "state": "confirmed", "x": 12.5, "y": 30.25, "vx": -3.0, "vy": 0.5, "cov": [0.25] * 16,
            "score": 9.5, "area": 6.0, "peak": 0.9, "scr": 4.2, "hits": 12, "age": 14,
        }
    ]  # fmt: skip


def test_fields_that_a_later_version_added_are_passed_over() -> None:
    topic, payload = encode(MESSAGES[1])
    content = {**msgpack.unpackb(payload), "weather": "fair"}
    assert decode(topic, msgpack.packb(content)) == MESSAGES[1]


@pytest.mark.parametrize(
    ("topic", "payload", "says"),
    [
        ("tracks/sky", b"\xc1", "tracks/sky"),
        ("tracks/sky", msgpack.packb({"stream": "sky"}), "missing required field"),
        ("weather/sky", b"\x80", "not one of tracks, detections, truth, status"),
    ],
)
def test_what_is_no_message_is_refused(topic: str, payload: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode(topic, payload)
