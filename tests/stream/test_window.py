"""The window of 16-bit frames follows the range they fill."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.base import Engine, load_engine
from engine.contract import ModelError
from stream.config import StreamConfig
from stream.detect import DetectConfig, detect
from stream.frame import End, FrameRef, Go, receive, send
from stream.ring import FrameRing
from stream.sources.base import SourceFrame, TruePoint
from stream.sources.scene import SceneConfig, SceneSource
from stream.window import FULL_8_BIT, SMALLEST_SPAN, WindowFollower
from stream.workers import capture
from stream.workers.infer import _pixels
from tests.deep import FILLS, deepened, write_video

SECOND = 1_000_000_000


def scene(level: int, spread: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(level - spread, level + spread, (256, 320)).astype(np.uint16)


def test_the_first_frame_sets_it_with_room_on_both_sides() -> None:
    low, high = WindowFollower().update(scene(20_000, 1_000), 0)
    assert low < 19_000
    assert high > 22_000


def test_it_moves_with_a_time_constant_of_a_second() -> None:
    follower = WindowFollower()
    before, _ = follower.update(scene(10_000, 500), 0)
    target, _ = WindowFollower().update(scene(20_000, 500), 0)
    after, _ = follower.update(scene(20_000, 500), SECOND)
    assert (after - before) / (target - before) == pytest.approx(1 - np.exp(-1), abs=0.01)


def test_a_few_hot_pixels_do_not_move_it() -> None:
    calm, hot = scene(10_000, 500), scene(10_000, 500)
    hot[100:103, 100:103] = 65_535
    assert WindowFollower().update(hot, 0) == pytest.approx(WindowFollower().update(calm, 0), rel=1e-3)


def test_a_flat_frame_is_not_stretched_into_noise() -> None:
    low, high = WindowFollower().update(np.full((64, 64), 5_000, np.uint16), 0)
    assert high - low >= SMALLEST_SPAN


def test_a_frame_goes_by_those_before_it_unless_they_are_long_gone() -> None:
    """What the last frame gave is known without looking; of none, or of one over a second ago, there is none."""
    follower = WindowFollower()
    assert follower.before(0) is None
    window = follower.update(scene(10_000, 500), SECOND)
    assert follower.before(SECOND) == follower.before(2 * SECOND) == window
    assert follower.before(2 * SECOND + 1) is None


def test_time_that_stands_still_changes_nothing() -> None:
    follower = WindowFollower()
    first = follower.update(scene(10_000, 500), SECOND)
    assert follower.update(scene(30_000, 500), SECOND) == first


MODEL = "rpcanet_plus_k1"


@pytest.fixture(scope="module")
def engines() -> dict[int, Engine]:
    try:
        return {bits: load_engine(MODEL, "onnxruntime", bits, threads=1) for bits in (8, 16)}
    except ModelError as error:
        pytest.skip(str(error))


def target_map(engine: Engine, pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    return engine.infer(_pixels([pixels], 8 * pixels.itemsize), np.array([window], np.float32))[0, 0]


def found(targets: np.ndarray, pixels: np.ndarray, truth: Sequence[TruePoint]) -> set[int]:
    seen = detect(targets, pixels, DetectConfig())
    return {p.id for p in truth if np.any(np.hypot(seen.x - p.x, seen.y - p.y) < 4)}


def scene_frames(seed: int) -> list[SourceFrame]:
    source = SceneSource(SceneConfig(seed=seed, live=False, frames=40))
    return [source.read(1.0) for _ in range(40)][::8]


@pytest.mark.parametrize("fill", FILLS)
def test_a_scene_in_16_bits_through_the_window_of_8_gives_the_same_map(
    engines: dict[int, Engine], fill: tuple[int, int]
) -> None:
    pixels = scene_frames(1)[-1].pixels
    window = (float(fill[0]), float(fill[0] + 255 * fill[1]))
    deep = target_map(engines[16], deepened(pixels, fill), window)
    assert np.abs(deep.astype(int) - target_map(engines[8], pixels, FULL_8_BIT)).max() <= 1


@pytest.mark.parametrize("fill", FILLS)
def test_a_scene_in_16_bits_shows_the_targets_that_it_shows_in_8(
    engines: dict[int, Engine], fill: tuple[int, int]
) -> None:
    shown = both = 0
    for seed in (0, 1, 2):
        follower = WindowFollower()
        for index, frame in enumerate(scene_frames(seed)):
            in_8 = found(target_map(engines[8], frame.pixels, FULL_8_BIT), frame.pixels, frame.truth)
            deep = deepened(frame.pixels, fill)
            window = follower.update(deep, index * SECOND // 4)
            in_16 = found(target_map(engines[16], deep, window), deep, frame.truth)
            shown, both = shown + len(in_8), both + len(in_8 & in_16)
    assert shown >= 20
    assert both >= 0.9 * shown


def write_images(folder: Path, frames: Sequence[np.ndarray], suffix: str) -> Path:
    for number, pixels in enumerate(frames):
        assert cv2.imwrite(str(folder / f"{number}.{suffix}"), pixels)
    return folder


@pytest.mark.parametrize("kind", ["mkv", "png", "tif"])
def test_no_step_from_the_file_to_the_engine_takes_a_bit_away(
    tmp_path: Path, engines: dict[int, Engine], kind: str
) -> None:
    """The targets are in the low bytes alone: whoever drops those, or hands on the high ones, loses them all."""
    given = [deepened(frame.pixels, FILLS[2]) for frame in scene_frames(1)]
    source = write_video(tmp_path / "a.mkv", given) if kind == "mkv" else write_images(tmp_path, given, kind)
    ring = FrameRing(len(given) + 1)  # one free, or the worker does not look for the end
    frames, to_frames = multiprocessing.Pipe(duplex=False)
    returns, to_returns = multiprocessing.Pipe(duplex=False)
    _, to_reports = multiprocessing.Pipe(duplex=False)
    send(to_returns, Go())
    config = StreamConfig(name="deep", source=str(source))
    worker = threading.Thread(
        target=capture.main, args=(0, config, ring, to_frames, returns, None, to_reports), daemon=True
    )
    worker.start()
    refs = []
    while frames.poll(10) and not isinstance(message := receive(frames), End):
        refs.extend([message] if isinstance(message, FrameRef) else [])
    worker.join(10)
    assert message.fault is None
    assert len(refs) == len(given)
    lit = 0
    for ref, pixels in zip(refs, given, strict=True):
        kept = ring.frame(ref.slot, ref.height, ref.width, ref.bits)
        np.testing.assert_array_equal(kept, pixels)
        assert pixels.min() - 300 < ref.low < ref.high < pixels.max() + 600
        targets = target_map(engines[16], kept, (ref.low, ref.high))
        lit += int((targets > 127).sum())
        assert not (target_map(engines[16], pixels & 0xFF00, (ref.low, ref.high)) > 127)[8:-8, 8:-8].any()
    assert lit > 0
    ring.close()
