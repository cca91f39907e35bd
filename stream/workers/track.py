"""Track: target maps into detections, tracks and messages, for all streams."""

from __future__ import annotations

import select
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream import StreamError, beats
from stream.channel import Channel
from stream.config import PublishConfig
from stream.detect import DetectConfig, Detections, FalseAlarms, detect
from stream.frame import (
    REPORT_NS,
    RESTART,
    STAGES,
    Coming,
    End,
    FrameRef,
    Passed,
    Publish,
    Ready,
    Release,
    Sweep,
    own_time_ns,
    receive,
    send,
    try_send,
)
from stream.messages import (
    DetectionsMessage,
    TracksMessage,
    TruthMessage,
    WireDetection,
    WireMessage,
    WirePoint,
    WireTrack,
    encode,
)
from stream.motion import SceneMotion
from stream.publish import Publisher
from stream.ring import FrameRing
from stream.tap import Tap
from stream.track import Track, TrackConfig, Tracker
from stream.track_log import TrackLog

REPORT_ROWS = 256
MOST_ROWS = 65_536  # kept for a supervisor that does not read; then latencies go unreported, frames do not
STEP_S = 1.0  # how long the loop may wait before it says that it gets on
BIND_S = 5.0  # how long the port of a worker that died may take to become free


@dataclass(frozen=True)
class TrackWorkerConfig:
    """What the worker does.

    Attributes:
        streams: their names.
        thresholds: the model's own for 8 and for 16 bit, probabilities, by bits.
        detect: how target maps become detections.
        track: how detections become tracks.
        publish: where the tracks go.
        lossless: whether a slow subscriber slows the pipeline down.
        again: whether it takes the place of a worker that died.
    """

    streams: tuple[str, ...]
    thresholds: dict[int, float]
    detect: DetectConfig
    track: TrackConfig
    publish: PublishConfig
    lossless: bool
    again: bool = False


@dataclass
class _Stream:
    """One stream's tracker and its books since the last report."""

    name: str
    ledger: NDArray[Any]  # see FrameRing.ledger
    tracker: Tracker
    alarms: FalseAlarms | None
    motion: SceneMotion | None
    latencies: list[tuple[int, ...]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    tracks: int = 0
    log: TrackLog = field(default_factory=TrackLog)


class _TrackWorker:
    def __init__(
        self,
        config: TrackWorkerConfig,
        rings: Sequence[FrameRing],
        returns: Sequence[Channel],
        publisher: Publisher,
        reports: Channel,
        tap: Tap | None,
    ) -> None:
        self.config, self.rings, self.returns, self.tap = config, rings, returns, tap
        self.publisher, self.reports = publisher, reports
        rate = config.detect.false_alarms
        self.streams = [
            _Stream(
                name,
                ring.ledger,
                Tracker(config.track, first_id=max(1, int(ring.ledger["next_id"][0]))),
                FalseAlarms(rate) if rate else None,
                SceneMotion() if config.track.scene_motion else None,
            )
            for name, ring in zip(config.streams, rings, strict=True)
        ]
        self.reported_ns = time.monotonic_ns()

    def take_in(self, frame: FrameRef) -> None:
        """Turn one frame's target map into a published message."""
        stream = self.streams[frame.stream]
        ring = self.rings[frame.stream]
        targets = ring.targets(frame.slot, frame.height, frame.width)
        pixels = ring.frame(frame.slot, frame.height, frame.width, frame.bits)
        detections = detect(targets, pixels, self.config.detect, self.config.thresholds[frame.bits])
        if stream.alarms:
            detections = stream.alarms.keep(detections)
        frame.times["detect"] = time.monotonic_ns()
        motion = stream.motion.update(pixels) if stream.motion else (0.0, 0.0)
        now = own_time_ns(frame.captured_ns, frame.camera_ns, frame.live)
        late = stream.tracker.late
        tracks = stream.tracker.update(detections, now, motion)
        if stream.alarms and stream.tracker.late == late:  # of a late frame, nothing was claimed
            stream.alarms.learn(stream.tracker.claimed)
        frame.times["track"] = time.monotonic_ns()
        self.miss(stream, frame.seq, frame.dropped)
        stream.ledger["next_id"] = stream.tracker.next_id
        stream.ledger["published"] += 1  # before it is: a frame that was published must never count as dropped too
        stream.ledger["passed"] = frame.seq + 1
        messages = self.publish(stream, frame, tracks)
        if not self.tap:
            send(self.returns[frame.stream], Release(frame.slot, frame.seq))
        if self.tap or self.publisher.wants(f"detections/{stream.name}"):
            messages.append(self.send(detections_message(stream.name, frame.seq, now, detections)))
        if self.tap and not self.tap.offer(frame, now, messages):
            send(self.returns[frame.stream], Release(frame.slot, frame.seq))
        stream.tracks = sum(track.state != "tentative" for track in tracks)
        stream.log.add(tracks, now)
        stream.dropped.update(frame.dropped)
        if len(stream.latencies) < MOST_ROWS:
            stream.latencies.append(tuple(frame.times[stage] - frame.captured_ns for stage in STAGES))

    def miss(self, stream: _Stream, seq: int, dropped: dict[str, int]) -> None:
        """Add the frames before ``seq`` that nobody accounts for to those that were dropped: a dead worker had them."""
        if missing := seq - int(stream.ledger["passed"][0]) - sum(dropped.values()):
            dropped[RESTART] = dropped.get(RESTART, 0) + missing

    def publish(self, stream: _Stream, frame: FrameRef, tracks: Sequence[Track]) -> list[Publish]:
        """Publish a frame's tracks, and its targets where the source knows them; return what was published."""
        wire = [msgspec.convert(track, WireTrack, from_attributes=True) for track in tracks]
        now = frame.times["publish"] = time.monotonic_ns()
        message = TracksMessage(
            stream=stream.name,
            seq=frame.seq,
            captured_utc_ns=frame.captured_utc_ns,
            captured_ns=frame.captured_ns,
            published_ns=now,
            width=frame.width,
            height=frame.height,
            dropped=frame.dropped,
            stages={stage: frame.times[stage] - frame.captured_ns for stage in STAGES},
            tracks=wire,
            camera_ns=frame.camera_ns,
            camera_utc_ns=frame.camera_utc_ns,
            published=int(stream.ledger["published"][0]),
        )
        sent = [self.send(message)]
        if frame.truth is not None:
            points = [WirePoint(id=id_, x=x, y=y) for id_, x, y in frame.truth]
            sent.append(self.send(TruthMessage(stream=stream.name, seq=frame.seq, targets=points)))
        return sent

    def send(self, message: WireMessage) -> Publish:
        topic, payload = encode(message)
        self.publisher.send(topic, payload)
        return Publish(topic, payload)

    def end(self, end: End) -> None:
        """Close the books of a stream that has ended."""
        stream = self.streams[end.stream]
        if stream.ledger["passed"] >= end.seq:  # a tracker before this one has closed them and told of the drops
            end.dropped.clear()
        self.miss(stream, end.seq, end.dropped)
        stream.ledger["passed"] = end.seq
        stream.dropped.update(end.dropped)
        send(self.reports, self.news(end.stream, end))
        stream.latencies, stream.dropped = [], Counter()
        if self.tap:
            self.tap.end(end)

    def sweep(self, sweep: Sweep) -> None:
        """Tell capture which slots are still in use of frames that have all come past here."""
        held = self.tap.held(sweep.stream) if self.tap else []
        send(self.returns[sweep.stream], Sweep(sweep.stream, sweep.seq, held))

    def news(self, index: int, end: End | None = None) -> Passed:
        """Return what has passed since the last report."""
        stream = self.streams[index]
        return Passed(
            index,
            int(stream.ledger["published"][0]),
            stream.latencies,
            dict(stream.dropped),
            stream.tracks,
            stream.tracker.confirmed,
            ended=end is not None,
            fault=end.fault if end else None,
            summaries=stream.log.longest() if end else [],
        )

    def report_due(self) -> None:
        """Report to the supervisor every quarter of a second, or sooner if much has passed, unless it does not read."""
        now = time.monotonic_ns()
        if now - self.reported_ns < REPORT_NS and all(len(s.latencies) < REPORT_ROWS for s in self.streams):
            return
        self.reported_ns = now
        for index, stream in enumerate(self.streams):
            if stream.latencies and try_send(self.reports, self.news(index)):
                stream.latencies, stream.dropped = [], Counter()


def detections_message(stream: str, seq: int, time_ns: int, detections: Detections) -> DetectionsMessage:
    """Return what goes over the wire of a frame's detections."""
    columns = (getattr(detections, name).tolist() for name in WireDetection.__struct_fields__)
    rows = [
        WireDetection(**dict(zip(WireDetection.__struct_fields__, row, strict=True)))
        for row in zip(*columns, strict=True)
    ]
    return DetectionsMessage(stream=stream, seq=seq, time_ns=time_ns, detections=rows)


def main(
    config: TrackWorkerConfig,
    rings: Sequence[FrameRing],
    returns: Sequence[Channel],
    frames: Channel,
    outbox: Channel,
    taps: tuple[Channel, Channel] | None,
    reports: Channel,
) -> None:
    """Bind the publisher, then track until all streams have ended.

    Args:
        config: what to do.
        rings: one a stream.
        returns: released slots to the capture workers.
        frames: descriptors from the infer worker.
        outbox: messages of the supervisor's for the subscribers.
        taps: to the recorder, and the slots that it returns; None if nothing is recorded.
        reports: to the supervisor.
    """
    publisher = _bind(config)
    publisher.wait_for(config.publish.wait_for)
    tap = Tap(*taps, returns) if taps else None
    warm_up(config.detect, config.track)
    worker = _TrackWorker(config, rings, returns, publisher, reports, tap)
    send(reports, Ready())
    ports = {port.fileno(): port for port in (frames, outbox, *([tap.back] if tap else []))}
    news = select.epoll()
    for fd in ports:
        news.register(fd, select.EPOLLIN)
    streams = set(range(len(config.streams)))
    while streams:
        for fd, _ in news.poll(STEP_S):
            port = ports[fd]
            if tap and port is tap.back:
                if tap.back.poll(0):  # a frame that waited for it may have taken it
                    tap.take_back()
                continue
            match receive(port):
                case FrameRef() as frame:
                    worker.take_in(frame)
                case Coming():
                    pass  # awake is all that we were to be
                case Sweep() as sweep:
                    worker.sweep(sweep)
                case End() as end if end.stream in streams:
                    worker.end(end)
                    streams.remove(end.stream)
                case Publish(topic, payload) as message:
                    publisher.send(topic, payload)
                    if tap:
                        tap.say(message)
        worker.report_due()
        if not config.lossless:  # there, a subscriber that is slow may hold us up for as long as it likes
            beats.step()
    _say_last_words(outbox, publisher, tap)
    publisher.close()


def warm_up(how: DetectConfig, follow: TrackConfig) -> None:
    """Find and track targets once, so that no frame pays for what libraries do at their first call."""
    targets, tracker = np.zeros((64, 64), np.uint8), Tracker(follow)
    targets[20:24, 20:24] = targets[40:42, 40:42] = 255
    for step in range(1, 4):
        for pixels in (targets, targets.astype(np.uint16)):
            found = detect(targets, pixels, how)
        encode(detections_message("", 0, 0, found))
        for track in tracker.update(found, step * 33_000_000):
            msgspec.convert(track, WireTrack, from_attributes=True)


def _bind(config: TrackWorkerConfig) -> Publisher:
    """Bind the publisher; the port of a worker that has just died may still be its own for a moment."""
    to = config.publish
    deadline = time.monotonic() + BIND_S * config.again
    while True:
        try:
            return Publisher(to.endpoint, config.lossless, to.curve, to.insecure)
        except StreamError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _say_last_words(outbox: Channel, publisher: Publisher, tap: Tap | None) -> None:
    """Publish what the supervisor still has to say, and let the recorder finish."""
    while outbox.poll(1.0):
        message = receive(outbox)
        if not isinstance(message, Publish):
            break
        publisher.send(message.topic, message.payload)
        if tap:
            tap.say(message)
    if tap:
        tap.close()
