"""``run_pipeline.py --check``: would this configuration run here, and does this machine keep up with it?

Every camera is opened as the run would, the engine is timed on the cameras' own frames, and what a
frame costs is set against the rates at which frames come.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.base import Engine, load_engine
from engine.contract import MODELS, find_model, read_model
from stream import StreamError
from stream.config import Config, StreamConfig
from stream.detect import detect
from stream.motion import SceneMotion
from stream.publish import Publisher
from stream.sources import check_source, masked, open_source
from stream.sources.base import EndOfSource, Pixels, Source
from stream.track import Tracker
from stream.window import FULL_8_BIT, WindowFollower

OPEN_S = 30.0  # how long cameras may take to give a first frame
LOOK_S = 3.0  # how long their frames are counted
READ_S = 0.2
FRAMES_KEPT = 12  # of each camera, to time the engine and detection on
TIME_S = 1.0  # a model and a size
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
# Busier than this, frames are dropped now and then: they do not come evenly, and the run's processes share the cores.
# Two cores that were 81 % busy by this account dropped one frame in a hundred.
FULL = 0.75


@dataclass
class CameraCheck:
    """What one stream's source showed of itself.

    Attributes:
        name: of the stream.
        source: as configured, credentials masked.
        live: whether it does not wait.
        fault: why it cannot be used; None if it can.
        width: pixels.
        height: pixels.
        bits: 8 or 16.
        stated_fps: the rate that the source states, if it does.
        fps: the rate at which frames came, lost ones included; None if it waits or gave fewer than two.
        first_frame_s: from opening to the first frame.
        lost: frames that the source said it lost while they were counted.
    """

    name: str
    source: str
    live: bool = False
    fault: str | None = None
    width: int = 0
    height: int = 0
    bits: int = 0
    stated_fps: float | None = None
    fps: float | None = None
    first_frame_s: float = 0.0
    lost: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Width, height and bits."""
        return self.width, self.height, self.bits


@dataclass(frozen=True)
class Cost:
    """What a frame costs.

    Attributes:
        engine_ms: of the engine's time, the mean: it is what the rate depends on.
        engine_p99_ms: the same, 99th percentile of the calls, a frame.
        track_ms: of the time that detection and tracking take.
        cpu_ms: of all cores' time, for both.
    """

    engine_ms: float
    engine_p99_ms: float
    track_ms: float
    cpu_ms: float


@dataclass
class ModelCheck:
    """What a model makes of the cameras.

    Attributes:
        model: its name or path.
        engine: the backend that runs it.
        stages: how many it has.
        load_s: how long it took to load and compile.
        costs: of a frame, by size, such as ``320x256, 8 bit``.
        loads: how busy the engine, the tracker and the cores would be, each a share of what they can do.
        possible_fps: frames a second of all streams together, in the proportions in which they come.
        keeps_up: whether nothing would be busier than ``FULL``.
    """

    model: str
    engine: str
    stages: int
    load_s: float
    costs: dict[str, Cost] = field(default_factory=dict)
    loads: dict[str, float] = field(default_factory=dict)
    possible_fps: float = 0.0
    keeps_up: bool = False

    @property
    def limit(self) -> str:
        """What would be busiest."""
        return max(self.loads, key=lambda name: self.loads[name])


@dataclass
class Check:
    """What the check found.

    Attributes:
        cameras: one a stream.
        cpus: cores that the run may use.
        capture_cpus: cores that the cameras kept busy while they were read.
        needed_fps: of all live streams together; 0 if all wait.
        models: the configured one first; empty if no camera gave a frame.
        warnings: what would not stop the run and is worth a look.
    """

    cameras: list[CameraCheck]
    cpus: float
    capture_cpus: float = 0.0
    needed_fps: float = 0.0
    models: list[ModelCheck] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """What is wrong with the cameras, a line each."""
        return [f"{camera.name}: {camera.fault}" for camera in self.cameras if camera.fault]

    @property
    def keeps_up(self) -> bool:
        """Whether the machine keeps up with the configured model."""
        return bool(self.models) and self.models[0].keeps_up

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {"schema": "irstream.check/1", "keeps_up": self.keeps_up, "faults": self.faults, **asdict(self)}


class _Camera:
    """Opens one source on a thread of its own, as all cameras are open at once in a run, and reads it."""

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.check = CameraCheck(config.name, masked(config.source))
        self.frames: list[Pixels] = []
        self.ready, self.go, self.stop = threading.Event(), threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            start = time.monotonic()
            source = open_source(self.config.source, self.config.live)
            try:
                self._read(source, start)
            finally:
                source.close()
        except StreamError as error:
            self.check.fault = str(error)
        except EndOfSource:
            pass
        finally:
            self.ready.set()

    def _read(self, source: Source, start: float) -> None:
        info, check = source.info, self.check
        check.width, check.height, check.bits = info.width, info.height, info.bits
        check.live, check.stated_fps = info.live, info.fps
        times: list[int] = []
        came = 0
        while not self.stop.is_set():
            if times and not self.go.is_set() and not info.live:
                self.go.wait(READ_S)
                continue
            if not info.live and len(self.frames) >= FRAMES_KEPT:
                return
            frame = source.read(READ_S)
            if frame is None:
                continue
            if not times:
                check.first_frame_s = time.monotonic() - start
                self.ready.set()
            elif info.live and not self.go.is_set():
                times.clear()  # what comes before all are there counts in no rate
                came, check.lost = 0, 0
            times.append(frame.captured_ns)
            check.lost += frame.lost
            came += 1 + (frame.lost if came else 0)
            if len(self.frames) < FRAMES_KEPT:
                self.frames.append(frame.pixels.copy())
            if info.live and len(times) > 1 and times[-1] > times[0]:
                check.fps = (came - 1) * 1e9 / (times[-1] - times[0])


def check(config: Config) -> Check:
    """Open every camera, time the engine, and predict whether this machine keeps up.

    Raises:
        StreamError, EngineError: if the model, the engine, the endpoint or the folder of recordings cannot be
            used. A camera that cannot is a fault of the answer's.
    """
    find_model(config.model)
    to = config.publish
    Publisher(to.endpoint, False, to.curve, to.insecure).close()
    found = Check([], usable_cpus())
    if (load := os.getloadavg()[0]) > 0.5 * (os.cpu_count() or 1):
        found.warnings.append(f"the machine is busy with something else (load {load:.1f}); an idle one does more")
    if config.record.folder:
        found.warnings += _look_at_folder(Path(config.record.folder), config.record.max_gb)
    frames = _look_at_cameras(config, found)
    usable = [camera for camera in found.cameras if not camera.fault]
    found.needed_fps = sum(camera.fps or 0.0 for camera in usable)
    if usable:
        for model in dict.fromkeys((config.model, *shipped_models())):
            found.models.append(_check_model(model, config, found, frames))
    return found


def _look_at_cameras(config: Config, found: Check) -> dict[tuple[int, int, int], list[Pixels]]:
    """Open and read all cameras; return some of their frames by shape."""
    cameras = []
    for stream in config.streams:
        try:
            check_source(stream.source)
            cameras.append(_Camera(stream))
            found.cameras.append(cameras[-1].check)
        except StreamError as error:
            found.cameras.append(CameraCheck(stream.name, masked(stream.source), fault=str(error)))
    deadline = time.monotonic() + OPEN_S
    for camera in cameras:
        if not camera.ready.wait(max(0.0, deadline - time.monotonic())):
            camera.check.fault = f"{camera.check.source}: no frame within {OPEN_S:g} s"
            camera.stop.set()
    start, busy = time.monotonic(), time.process_time()
    for camera in cameras:
        camera.go.set()
    for camera in cameras:
        camera.thread.join(max(0.0, start + LOOK_S - time.monotonic()) if not camera.check.fault else 0)
    found.capture_cpus = (time.process_time() - busy) / max(time.monotonic() - start, 1e-3)
    frames: dict[tuple[int, int, int], list[Pixels]] = {}
    for camera in cameras:
        camera.stop.set()
        camera.thread.join(2 * READ_S + 2 if not camera.check.fault else 0)
        if not camera.check.fault and not camera.frames:
            camera.check.fault = f"{camera.check.source}: no frame in it"
        if not camera.check.fault:
            frames.setdefault(camera.check.shape, []).extend(camera.frames)
    if not any(camera.live for camera in found.cameras):
        found.capture_cpus = 0.0  # files wait: what reading them takes says nothing of a rate
    return frames


def _check_model(
    model: str, config: Config, found: Check, frames: dict[tuple[int, int, int], list[Pixels]]
) -> ModelCheck:
    start = time.monotonic()
    usable = [camera for camera in found.cameras if not camera.fault]
    streams = Counter(camera.shape for camera in usable)
    engines = {bits: load_engine(model, config.engine, bits, config.threads) for _, _, bits in streams}
    batches = {shape: _batch(engines[shape[2]], config, streams[shape]) for shape in streams}
    for (width, height, bits), batch in batches.items():
        engines[bits].prepare(batch, height, width)
    loaded = next(iter(engines.values()))
    answer = ModelCheck(model, loaded.name, loaded.info.stages, time.monotonic() - start)
    costs = {shape: _cost(engines[shape[2]], batches[shape], frames[shape], config) for shape in streams}
    answer.costs = {f"{width}x{height}, {bits} bit": costs[width, height, bits] for width, height, bits in costs}
    # Files have no rate of their own: what is possible is told for as many frames of each.
    rates = [(camera.fps or 0.0 if found.needed_fps else 1.0, costs[camera.shape]) for camera in usable]
    answer.loads = {
        "engine": sum(rate * cost.engine_ms for rate, cost in rates) / 1e3,
        "tracker": sum(rate * cost.track_ms for rate, cost in rates) / 1e3,
        "cores": (sum(rate * cost.cpu_ms for rate, cost in rates) / 1e3 + found.capture_cpus) / found.cpus,
    }
    load = answer.loads[answer.limit]
    answer.possible_fps = sum(rate for rate, _ in rates) / max(load, 1e-9)
    answer.keeps_up = load <= FULL or not found.needed_fps
    return answer


def _batch(engine: Engine, config: Config, streams: int) -> int:
    """Return the frames in a batch when all streams of a shape come together."""
    return max(1, min(config.batch.largest or engine.best_batch, streams))


def _cost(engine: Engine, batch: int, frames: Sequence[Pixels], config: Config) -> Cost:
    """Time what becomes of a frame, on frames of one shape."""
    follower = WindowFollower()
    deep = frames[0].dtype == np.uint16
    seen = [follower.update(pixels.view(np.uint16), i) if deep else FULL_8_BIT for i, pixels in enumerate(frames)]
    chosen = [i % len(frames) for i in range(batch)]
    pixels = np.stack([frames[i] for i in chosen])[:, None]
    given = pixels[..., None].view(np.uint8) if deep else pixels.view(np.uint8)
    window = np.array([seen[i] for i in chosen], np.float32)
    targets = engine.infer(given, window)
    took: list[float] = []
    busy = time.process_time()
    while sum(took) < TIME_S or len(took) < 5:
        start = time.perf_counter()
        targets = engine.infer(given, window)
        took.append(time.perf_counter() - start)
    engine_cpu = (time.process_time() - busy) / len(took) / batch
    tracker, motion = Tracker(config.track), SceneMotion() if config.track.scene_motion else None
    after: list[float] = []
    for i in range(4 * FRAMES_KEPT):
        frame = frames[i % len(frames)]
        start = time.perf_counter()
        detections = detect(targets[i % batch][0], frame, config.detect, engine.info.threshold)
        moved = motion.update(frame) if motion else (0.0, 0.0)
        tracker.update(detections, i * 40_000_000, moved)
        after.append(time.perf_counter() - start)
    mean, late = 1e3 * np.mean(took) / batch, 1e3 * np.quantile(took, 0.99) / batch
    follow = 1e3 * float(np.mean(after[FRAMES_KEPT:]))  # the first load what Numba compiled; a run does so beforehand
    return Cost(float(mean), float(late), follow, 1e3 * engine_cpu + follow)


def shipped_models() -> list[str]:
    """Return the names of the shipped models that are for cameras, those of fewest stages first."""
    # not those of one data set, which are there for comparison with published figures
    names = [path.stem for path in MODELS.glob("*.onnx") if not path.stem.endswith(("_16bit", "_nudt"))]
    return sorted(names, key=lambda name: (read_model(find_model(name))[1].stages, name))


def usable_cpus() -> float:
    """Return the cores that this process may use, as its affinity and its control group allow."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = CPU_MAX.read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no such limit
        return cores


def _look_at_folder(folder: Path, max_gb: float) -> list[str]:
    """Return what is worth a look at the folder of recordings."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise StreamError(f"record.folder {folder}: cannot be written; a folder that can is expected")
    free = shutil.disk_usage(there).free / 1e9
    return [f"record.folder {folder}: {free:.1f} GB are free, record.max_gb is {max_gb:g}"] if free < max_gb else []
