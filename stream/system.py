"""The whole system as one table of processes, and the channels between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stream.channel import Channel, channel
from stream.config import Config, StreamConfig
from stream.frame import Hello
from stream.publish import monotonic_to_utc_ns
from stream.record import new_run
from stream.ring import FrameRing
from stream.sources import is_live
from stream.tap import HOLDS
from stream.workers import capture, infer, record, track

SLOTS = 8  # a stream's: one being captured, one waiting, one in the engine, one being tracked, and as many to spare


@dataclass(frozen=True)
class WorkerSpec:
    """One process of the system.

    Attributes:
        name: what it is called.
        main: where it starts.
        arguments: what it is given, before the channel it reports on.
    """

    name: str
    main: Callable[..., None]
    arguments: tuple[object, ...]


@dataclass(frozen=True)
class Wiring:
    """The channels between the workers, as (receiving end, sending end). The supervisor holds both: none breaks."""

    rings: tuple[FrameRing, ...]
    frames: tuple[tuple[Channel, Channel], ...]  # capture -> infer, a stream each
    returns: tuple[tuple[Channel, Channel], ...]  # released slots, go, stop and sweeps -> capture
    maps: tuple[Channel, Channel]  # infer -> track
    outbox: tuple[Channel, Channel]  # supervisor -> track
    tap: tuple[Channel, Channel]  # track -> record
    tapped: tuple[Channel, Channel]  # slots that were read: record -> track


def wire(streams: int, record: bool = False) -> Wiring:
    """Return the channels and rings of so many streams."""
    return Wiring(
        tuple(FrameRing(SLOTS + HOLDS * record) for _ in range(streams)),
        tuple(channel() for _ in range(streams)),
        tuple(channel() for _ in range(streams)),
        channel(),
        channel(),
        channel(),
        channel(),
    )


def drops_nothing(config: Config) -> bool:
    """Tell whether all of a run's sources wait, so that a slow subscriber may slow the run down."""
    return not any(is_live(stream.source, stream.live) for stream in config.streams)


def process_table(config: Config, wiring: Wiring, thresholds: dict[int, float]) -> list[WorkerSpec]:
    """Return every process of a run: one a camera, one a device, one tracker, and a recorder if wanted."""
    names = tuple(stream.name for stream in config.streams)
    to_capture = tuple(sender for _, sender in wiring.returns)
    captures = [
        WorkerSpec(
            f"capture {stream.name}",
            capture.main,
            (index, stream, wiring.rings[index], wiring.frames[index][1], wiring.returns[index][0], None),
        )
        for index, stream in enumerate(config.streams)
    ]
    recorders = []
    if config.record.folder:
        room = Path(config.record.folder)
        most = round(config.record.max_gb * 1e9)
        arguments = record.RecordWorkerConfig(names, room, new_run(room), most, monotonic_to_utc_ns())
        recorders = [
            WorkerSpec("record", record.main, (arguments, wiring.rings, wiring.tap[0], wiring.tapped[1])),
        ]
    return [
        *recorders,
        WorkerSpec(
            "track",
            track.main,
            (
                track.TrackWorkerConfig(
                    names, thresholds, config.detect, config.track, config.publish, drops_nothing(config)
                ),
                wiring.rings,
                to_capture,
                wiring.maps[0],
                wiring.outbox[0],
                (wiring.tap[1], wiring.tapped[0]) if recorders else None,
            ),
        ),
        WorkerSpec(
            "infer",
            infer.main,
            (
                infer.InferConfig(config.model, config.engine, config.threads, config.batch),
                wiring.rings,
                tuple(receiver for receiver, _ in wiring.frames),
                to_capture,
                wiring.maps[1],
            ),
        ),
        *captures,
    ]


def for_again(spec: WorkerSpec, hellos: Sequence[Hello]) -> WorkerSpec:
    """Return the table's entry for a worker that takes the place of one that died.

    Args:
        spec: its entry.
        hellos: what the sources have said: the engine does not hear it again, and a camera may be away.
    """
    match spec.arguments:
        case (infer.InferConfig() as config, *rest):
            return replace(spec, arguments=(replace(config, hellos=tuple(hellos)), *rest))
        case (track.TrackWorkerConfig() as config, *rest):
            to = config.publish.model_copy(update={"wait_for": 0})
            return replace(spec, arguments=(replace(config, publish=to, again=True), *rest))
        case (int() as stream, StreamConfig(), *_, None):
            before = next((hello for hello in hellos if hello.stream == stream), None)
            return replace(spec, arguments=(*spec.arguments[:-1], before))
    return spec
