"""A run of the pipeline that is listened to: everything its streams publish, kept."""

from __future__ import annotations

import tempfile
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from stream import StreamError
from stream.config import load_config
from stream.messages import DetectionsMessage, TracksMessage, TruthMessage, decode
from stream.score_clip import FrameResult, TrackPoint
from stream.supervisor import PipelineError, Supervisor

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"
POLL_MS = 100


@dataclass
class StreamRecord:
    """What one stream published.

    Attributes:
        tracks: its messages, in order.
        detections: by ``seq``.
        truth: by ``seq``, of a scene.
    """

    tracks: list[TracksMessage] = field(default_factory=list)
    detections: dict[int, DetectionsMessage] = field(default_factory=dict)
    truth: dict[int, TruthMessage] = field(default_factory=dict)


def run_pipeline(
    streams: list[dict[str, Any]], config: Path, model: str | None, engine: str | None
) -> dict[str, StreamRecord]:
    """Run the pipeline over streams, losing nothing, and return what each published.

    Args:
        streams: as in a configuration.
        config: the rest of it; its own streams are left out.
        model: in place of the configuration's.
        engine: in place of the configuration's.

    Raises:
        StreamError, EngineError, PipelineError: as a run of the pipeline does.
    """
    records: dict[str, StreamRecord] = defaultdict(StreamRecord)
    with tempfile.TemporaryDirectory(prefix="irstream") as folder:
        endpoint = f"ipc://{folder}/tracks"
        given = {"streams": streams, "publish.endpoint": endpoint, "publish.wait_for": 1, "duration": None}
        given |= {key: value for key, value in (("model", model), ("engine", engine)) if value}
        supervisor = Supervisor(load_config(config, given), lambda _: None)
        over = threading.Event()
        listener = threading.Thread(target=_listen, args=(endpoint, records, over), daemon=True)
        listener.start()
        try:
            supervisor.run()
        finally:
            over.set()
            listener.join()
        if supervisor.interrupted:
            raise PipelineError("interrupted: the sources were not read to their end")
    return records


def _listen(endpoint: str, records: dict[str, StreamRecord], over: threading.Event) -> None:
    """Gather what is published until the run is over and nothing more comes."""
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    for kind in ("detections", "truth", "tracks"):  # the run begins once the last has come, and has the others then
        socket.subscribe(f"{kind}/")
    socket.connect(endpoint)
    while True:
        if socket.poll(POLL_MS):
            topic, payload = socket.recv_multipart()
            message = decode(topic.decode(), payload)
            record = records[message.stream]
            match message:
                case TracksMessage():
                    record.tracks.append(message)
                case DetectionsMessage():
                    record.detections[message.seq] = message
                case TruthMessage():
                    record.truth[message.seq] = message
        elif over.is_set():
            break
    socket.close(linger=0)
    context.term()


def results_of(record: StreamRecord) -> list[FrameResult]:
    """Return a clip's record as what is scored; every frame must have its detections."""
    found = []
    for message in record.tracks:
        rows = [(d.x, d.y, d.score) for d in record.detections[message.seq].detections]
        sure = [TrackPoint(t.id, t.x, t.y) for t in message.tracks if t.state != "tentative"]
        found.append(FrameResult(message.seq, np.array(rows, np.float64).reshape(-1, 3), sure))
    return found


def fps_of(record: StreamRecord) -> float:
    """Return the rate of a file, frames a second, by its own times.

    Raises:
        StreamError: if it has fewer than two frames.
    """
    times = [message.time_ns for message in record.detections.values()]
    if len(times) < 2:
        raise StreamError(f"{record.tracks[0].stream if record.tracks else 'a stream'}: too short to have a rate")
    return 1e9 * (len(times) - 1) / (max(times) - min(times))
