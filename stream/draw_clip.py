"""Pictures of an evaluation: clips with truth, detections and tracks drawn in, precision against recall."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from stream import StreamError
from stream.labels import Box, Clip
from stream.messages import WireDetection, WireTrack
from stream.record_run import StreamRecord
from stream.sources.base import EndOfSource
from stream.sources.video import VideoSource

ZOOM = 3
TAIL = 30  # frames
LEGEND_PX = 24
TRUTH, DETECTION, CONFIRMED, COASTING = (90, 200, 90), (60, 190, 255), (255, 170, 60), (190, 140, 190)  # BGR
READ_S = 5.0
FONT = cv2.FONT_HERSHEY_SIMPLEX

Picture = NDArray[np.uint8]
Place = tuple[int, int]


def draw_video(path: Path, clips: Sequence[Clip], records: dict[str, StreamRecord]) -> None:
    """Write an MP4 of all clips, one after another, with what was published drawn over them.

    All frames take the size of the first clip's, three times enlarged.

    Raises:
        StreamError: if the file cannot be written.
    """
    first = records[clips[0].name].tracks[0]
    size = (first.width * ZOOM, first.height * ZOOM + LEGEND_PX)
    try:
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(30), options={"crf": "20", "preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = size[0] // 2 * 2, size[1] // 2 * 2, "yuv420p"
            for clip in clips:
                for picture in _pictures(clip, records[clip.name]):
                    fitted = np.asarray(cv2.resize(picture, (stream.width, stream.height)), np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(fitted, "bgr24")))
            container.mux(stream.encode(None))
    except (OSError, av.FFmpegError) as error:
        raise StreamError(f"--video {path}: {error.strerror or error}") from None


def _pictures(clip: Clip, record: StreamRecord) -> Iterator[Picture]:
    source = VideoSource(clip.path, live=False)
    tails: dict[int, deque[Place]] = defaultdict(lambda: deque(maxlen=TAIL))
    try:
        for message in record.tracks:
            while (frame := source.read(READ_S)) is None:
                pass
            pixels = (frame.pixels >> (8 * (frame.pixels.itemsize - 1))).astype(np.uint8)
            detections = record.detections[message.seq].detections
            tracks = [t for t in message.tracks if t.state != "tentative"]
            yield draw_frame(
                pixels, clip.boxes.get(message.seq, []), detections, tracks, tails, f"{clip.name} {message.seq}"
            )
    except EndOfSource:
        return
    finally:
        source.close()


def draw_frame(
    pixels: Picture,
    boxes: Sequence[Box],
    detections: Sequence[WireDetection],
    tracks: Sequence[WireTrack],
    tails: dict[int, deque[Place]],
    title: str,
) -> Picture:
    """Return one frame, enlarged, with truth, detections and tracks.

    Args:
        pixels: uint8 ``[height, width]``.
        boxes: the truth.
        detections: of the frame.
        tracks: those to draw.
        tails: where tracks have been, by id; gains a place for each track.
        title: written below the frame.
    """
    large = cv2.cvtColor(cv2.resize(pixels, None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2BGR)
    for box in boxes:
        corners = [
            (round(ZOOM * (box.x + dx)), round(ZOOM * (box.y + dy))) for dx, dy in ((0, 0), (box.width, box.height))
        ]
        cv2.rectangle(large, corners[0], corners[1], TRUTH, 1, cv2.LINE_AA)
    for found in detections:
        cv2.circle(large, _place(found.x, found.y), 4, DETECTION, 1, cv2.LINE_AA)
    for each in tracks:
        colour = CONFIRMED if each.state == "confirmed" else COASTING
        at = _place(each.x, each.y)
        tails[each.id].append(at)
        cv2.polylines(large, [np.array(tails[each.id], np.int32)], False, colour, 1, cv2.LINE_AA)
        cv2.drawMarker(large, at, colour, cv2.MARKER_CROSS, 14, 1, cv2.LINE_AA)
        cv2.putText(large, str(each.id), (at[0] + 9, at[1] - 7), FONT, 0.45, colour, 1, cv2.LINE_AA)
    legend = np.zeros((LEGEND_PX, large.shape[1], 3), np.uint8)
    x = 6
    parts = (
        (title, (230, 230, 230)),
        ("truth", TRUTH),
        ("detection", DETECTION),
        ("track", CONFIRMED),
        ("coasting", COASTING),
    )
    for text, colour in parts:
        cv2.putText(legend, text, (x, 16), FONT, 0.45, colour, 1, cv2.LINE_AA)
        x += cv2.getTextSize(text, FONT, 0.45, 1)[0][0] + 16
    return np.asarray(np.concatenate([large, legend]), np.uint8)


def _place(x: float, y: float) -> Place:
    return round(ZOOM * (x + 0.5)), round(ZOOM * (y + 0.5))


def draw_precision_recall(path: Path, curve: NDArray[np.float64]) -> None:
    """Write a PNG of precision against recall as the least score of a detection rises.

    Args:
        path: of the picture.
        curve: ``[n, 3]``: score, precision, recall.

    Raises:
        StreamError: if matplotlib is not installed or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StreamError("--picture needs matplotlib: pip install 'irstream[plots]'") from None
    figure = Figure(figsize=(6.0, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    score, precision, recall = curve.T
    axes.plot(recall, precision, color="#1f6fb2", linewidth=1.8)
    free = 1.1  # the height down to which labels stand already
    for least in (0.8, 0.6, 0.4, 0.2):
        at = np.flatnonzero(score >= least)
        if not len(at):
            continue
        x, y = recall[at[-1]], precision[at[-1]]
        free = min(y, free - 0.05)
        axes.plot(x, y, "o", color="#1f6fb2", markersize=4)
        side, shift = ("right", -0.03) if x > 0.2 else ("left", 0.03)  # of the point, where there is room
        axes.annotate(f"score ≥ {least:g}", (x, y), (x + shift, free - 0.03), ha=side, va="top", fontsize=8)
    axes.set(
        xlabel="recall: labelled boxes with a detection",
        ylabel="precision: detections in a box",
        xlim=(0, 1.01),
        ylim=(0, 1.01),
    )
    axes.grid(alpha=0.3)
    axes.set_title("Detections before tracking, by their least score", fontsize=10)
    try:
        figure.savefig(path)
    except OSError as error:
        raise StreamError(f"--picture {path}: {error.strerror}") from None
