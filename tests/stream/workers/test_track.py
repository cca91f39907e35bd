"""The track worker: its books hold when it is replaced."""

from __future__ import annotations

from multiprocessing import Pipe

from stream.books import StreamBook
from stream.config import PublishConfig
from stream.detect import DetectConfig
from stream.frame import End, receive
from stream.ring import FrameRing
from stream.track import TrackConfig
from stream.workers.track import TrackWorkerConfig, _TrackWorker


def test_an_end_that_is_said_again_to_another_tracker_counts_its_drops_once() -> None:
    """The first died after it had closed a stream, while another went on."""
    config = TrackWorkerConfig(("a", "b"), {8: 0.5}, DetectConfig(), TrackConfig(), PublishConfig(), lossless=False)
    rings = [FrameRing(2), FrameRing(2)]
    rings[0].ledger["published"] = rings[0].ledger["passed"] = 60
    reports, ours = Pipe(duplex=False)
    book = StreamBook("a", "camera")
    for tracker in range(2):
        if tracker:
            book.tracker_died(int(rings[0].ledger["published"][0]), int(rings[0].ledger["passed"][0]))
        worker = _TrackWorker(config, rings, [None, None], None, ours, None)  # type: ignore[list-item, arg-type]
        worker.end(End(0, 100, {"lost by the camera": 40}, None))
        book.add(receive(reports))
        assert (book.published, dict(book.dropped)) == (60, {"lost by the camera": 40})
    for ring in rings:
        ring.close()
