"""The pictures of training.evaluate: worst frames, stages, noise and ROC curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from training.data import Sample
from training.measure import Judged
from training.roc import PROBABILITIES, Roc

if TYPE_CHECKING:
    from training.model import RPCANetPlus

ZOOM_PX = 40  # side of the cut-out that shows a target of a few pixels large
HIT, FALSE, MISSED = (0.25, 0.8, 0.3), (0.95, 0.2, 0.2), (1.0, 0.8, 0.1)
DPI = 100
LINES = ("-", "--", ":", "-.")

Image = NDArray[Any]


def draw_gallery(path: Path, frames: list[Judged], columns: int = 2) -> None:
    """Draw frames with their truth and what was found.

    Each has four panels: the whole frame with a square around its worst error, and in that square the
    frame, the truth and the prediction: hits green, false pixels red, missed ones yellow.

    Args:
        path: the PNG to write.
        frames: what to show, in that order; not none.
        columns: frames beside each other.
    """
    columns = min(columns, len(frames))
    lines = -(-len(frames) // columns)
    figure = Figure(figsize=(7.6 * columns, 2.2 * lines + 0.35), dpi=DPI)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.04, wspace=0.0, hspace=0.01))
    figure.suptitle(
        "hits green, false pixels red, missed pixels yellow; the square is shown large", fontsize=10, color="0.3"
    )
    parts = figure.subfigures(lines, columns, squeeze=False).ravel()
    for part, judged in zip(parts, frames, strict=False):
        tally = judged.tally
        part.suptitle(
            f"{judged.label}   IoU {judged.iou:.3f}   "
            f"{tally.found_by_overlap} of {tally.targets} targets, {tally.unmatched_components} false",
            fontsize=10,
        )
        _draw_judged(part.subplots(1, 4), judged)
    figure.savefig(path)


def _draw_judged(axes: NDArray[Any], judged: Judged) -> None:
    frame, mask, found = judged.sample.frame, judged.sample.mask, judged.found
    top, left, side = _worst_square(mask, found)
    window = np.s_[top : top + side, left : left + side]
    low, high = np.percentile(frame, (0.2, 99.9))
    _show(axes[0], frame, Normalize(low, max(high, low + 1)))
    axes[0].add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=MISSED, linewidth=1.2))
    cut = frame[window]
    _show(axes[1], cut, Normalize(cut.min(), max(cut.max(), cut.min() + 1)))  # its own contrast
    _show(axes[2], mask[window], Normalize(0, 1))
    colours = np.zeros((*mask.shape, 3))
    colours[mask & found], colours[found & ~mask], colours[mask & ~found] = HIT, FALSE, MISSED
    _show(axes[3], colours[window], Normalize(0, 1))
    for axis, title in zip(axes, ("frame", "cut-out", "truth", "prediction"), strict=True):
        axis.set_xlabel(title, fontsize=8, labelpad=2)


def _worst_square(mask: NDArray[np.bool_], found: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Return top, left and side of a square around the largest target or find with an error in it."""
    count, labels = cv2.connectedComponents((mask | found).astype(np.uint8), connectivity=8)
    wrong = np.bincount(labels[mask ^ found], minlength=count)
    ys, xs = np.nonzero(labels == wrong.argmax()) if wrong.any() else np.nonzero(mask | True)
    height, width = mask.shape
    side = min(max(ZOOM_PX, int(np.ptp(ys)) + 9, int(np.ptp(xs)) + 9), height, width)
    top = int(np.clip((ys.min() + ys.max() + 1 - side) // 2, 0, height - side))
    left = int(np.clip((xs.min() + xs.max() + 1 - side) // 2, 0, width - side))
    return top, left, side


def _show(axis: Axes, image: Image, scale: Normalize, colours: str = "gray") -> None:
    axis.imshow(image, cmap=colours, norm=scale, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_edgecolor("0.6")


Stage = dict[str, "Image | None"]
"""B, T, N and D of a stage, each ``[height, width]``; None where a stage has none."""


def stages_of(network: RPCANetPlus, frame: NDArray[np.uint8]) -> list[Stage]:
    """Return what every stage of a network makes of a frame, ``[height, width]``; None for what it does not make."""
    import torch

    device = next(network.parameters()).device
    with torch.inference_mode():
        found = network.decompose(torch.from_numpy(frame).to(device).float()[None, None] / 255)
    return [
        {
            key: None if value is None else value[0, 0].cpu().numpy()
            for key, value in zip("BTND", (each.background, each.target, each.noise, each.frame), strict=True)
        }
        for each in found
    ]


def draw_stages(path: Path, name: str, frames: list[tuple[Sample, list[Stage]]]) -> None:
    """Draw what every stage made of frames: a block a frame, a column a stage, a row each for B, T, N and D.

    The inset shows the surround of the frame's first target. T and N are red above 0 and blue below. Every
    panel has its own scale, the title has its range: stages differ by orders of magnitude, and what
    passes between them is not bounded by what a frame may be.

    Args:
        path: the PNG to write.
        name: the network's name.
        frames: each frame and, a stage, its B, T, N and D, ``[height, width]``; not none.
    """
    stages = len(frames[0][1])
    figure = Figure(figsize=(2.15 * (stages + 1) + 0.3, 8.7 * len(frames) + 0.3), dpi=DPI, layout="constrained")
    figure.suptitle(f"what every stage of {name} made of a frame", fontsize=11)
    parts = figure.subfigures(len(frames), 1, squeeze=False).ravel()
    for part, (sample, found) in zip(parts, frames, strict=True):
        axes = part.subplots(4, stages + 1)
        place = _target_square(sample.mask)
        frame = sample.frame / 255
        _show_inset(axes[0, 0], frame, _bright(frame), place)
        axes[0, 0].set_title(sample.name, fontsize=9)
        _show_inset(axes[1, 0], sample.mask, (Normalize(0, 1), "gray"), place)
        axes[1, 0].set_title("truth", fontsize=9)
        _legend(axes[2, 0], found)
        axes[3, 0].axis("off")
        for row, key in enumerate("BTND"):
            for column, stage in enumerate(found, 1):
                axis, image = axes[row, column], stage[key]
                if image is None:
                    axis.axis("off")
                    continue
                _show_inset(axis, image, _signed(image) if key in "TN" else _bright(image), place)
                axis.set_title(f"{key}{column}   {image.min():.3g} to {image.max():.3g}", fontsize=8, pad=3)
    figure.savefig(path)


def _legend(axis: Axes, found: list[Stage]) -> None:
    lines = ["B background", "T targets (logit)", "N noise", "D frame, rebuilt", "", "T, N: red > 0, blue < 0"]
    last = found[-1]["T"]
    if last is not None:
        lines.append(f"T{len(found)} > 0: {int((last > 0).sum())} px")
    axis.text(0, 1, "\n".join(lines), transform=axis.transAxes, va="top", fontsize=8, linespacing=1.5)
    axis.axis("off")


def _target_square(mask: NDArray[np.bool_]) -> tuple[int, int, int] | None:
    """Return top, left and side of a square around the first target, None where there is none."""
    count, _, stats, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count == 1:
        return None
    side = min(max(20, 2 * int(stats[1, 2:4].max())), *mask.shape)
    x, y = centres[1]
    height, width = mask.shape
    return int(np.clip(y - side / 2, 0, height - side)), int(np.clip(x - side / 2, 0, width - side)), side


def _bright(image: Image) -> tuple[Normalize, str]:
    low, high = np.percentile(image, (0.5, 99.5))
    return Normalize(low, max(high, low + 1e-6)), "gray"


def _signed(image: Image) -> tuple[Normalize, str]:
    return TwoSlopeNorm(0, min(float(image.min()), -1e-6), max(float(image.max()), 1e-6)), "RdBu_r"


def _show_inset(axis: Axes, image: Image, scale: tuple[Normalize, str], place: tuple[int, int, int] | None) -> None:
    _show(axis, image, *scale)
    if place is None:
        return
    top, left, side = place
    height, width = image.shape
    # In the corner that is farthest from the target.
    x = 0.58 if left + side / 2 < width / 2 else 0.0
    y = 0.58 if top + side / 2 > height / 2 else 0.0
    inset = axis.inset_axes((x, y, 0.42, 0.42))
    _show(inset, image[top : top + side, left : left + side], *scale)
    for spine in inset.spines.values():
        spine.set_edgecolor(MISSED)
    axis.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=MISSED, linewidth=0.8))


def draw_noise(path: Path, results: list[dict[str, Any]]) -> None:
    """Draw IoU against the noise level: a panel a kind of noise, a line a network and data set.

    Args:
        path: the PNG to write.
        results: the figures of ``--json``, each with ``noise``: kind, level and IoU of each level.
    """
    kinds = list(dict.fromkeys(row["kind"] for row in results[0]["noise"]))
    titles = {
        "gaussian": "Gaussian: sigma, grey levels of 255",
        "poisson": "Poisson: photons of a white pixel",
        "salt-pepper": "salt and pepper: share of pixels, %",
    }
    figure = Figure(figsize=(4.4 * len(kinds) + 0.4, 4.4 + 0.1 * len(results)), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        for index, result in enumerate(results):
            rows = sorted((row for row in result["noise"] if row["kind"] == kind), key=_place)
            x = [0.0, *(_place(row) for row in rows)]
            y = [np.nan if row["iou"] is None else 100 * row["iou"] for row in (result, *rows)]
            axis.plot(x, y, marker="o", linestyle=LINES[index // 10 % len(LINES)], label=_label(result, results))
        ticks = {0.0: "none", **{_place(row): f"{_shown(row):g}" for row in results[0]["noise"] if row["kind"] == kind}}
        axis.set_xticks(list(ticks), list(ticks.values()))
        axis.set_xlabel(titles[kind])
        axis.grid(alpha=0.3)
        axis.set_ylim(0, 100)
    axes[0].set_ylabel("IoU, %")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=len(kinds))
    figure.savefig(path)


def _place(row: dict[str, Any]) -> float:
    """Return where a noise level stands on its axis: for photons, the noise of a white pixel in grey levels."""
    return float(255 / np.sqrt(row["level"]) if row["kind"] == "poisson" else _shown(row))


def _shown(row: dict[str, Any]) -> float:
    return float(100 * row["level"] if row["kind"] == "salt-pepper" else row["level"])


def _label(result: dict[str, Any], results: list[dict[str, Any]]) -> str:
    several = len({each["data"] for each in results}) > 1
    return f"{result['model']} on {result['data']}" if several else str(result["model"])


def draw_roc(path: Path, curves: list[tuple[dict[str, Any], Roc]]) -> None:
    """Draw ROC curves: pixels on the left, targets on the right, both against a logarithmic axis.

    The cross on a curve is the threshold that the network itself has.

    Args:
        path: the PNG to write.
        curves: each with its figures of ``--json``, which name network and data set.
    """
    height = 4.5 + 0.18 * len(curves)  # a line each in the legend
    figure = Figure(figsize=(12.5, height), dpi=DPI, layout="constrained")
    pixels, targets = figure.subplots(1, 2)
    for index, (result, roc) in enumerate(curves):
        false, true = roc.curve()
        label = _label(result, [each for each, _ in curves])
        style = {"color": f"C{index % 10}", "linestyle": LINES[index // 10 % len(LINES)]}
        drawn = (false < 1) & (true > 0)  # the ends, (0, 0) and (1, 1), say nothing
        pixels.plot(np.maximum(false[drawn], 1e-7), true[drawn], label=f"{label}, area {roc.area():.4f}", **style)
        cross = {"marker": "x", "color": style["color"], "markersize": 9}
        pixels.plot(max(result["fa"], 1e-7), result["recall"], **cross)
        rows = roc.rows()
        x = [max(row["fa_centroid"], 1e-7) for row in rows]
        targets.plot(x, [row["pd_centroid"] for row in rows], marker=".", label=label, **style)
        targets.plot(max(result["fa_centroid"], 1e-7), result["pd_centroid"], **cross)
    pixels.set(xlabel="background pixels above the threshold, share", ylabel="target pixels above it, share")
    targets.set(xlabel="Fa: area of unmatched components, share of all pixels", ylabel="Pd (centroids within 3 px)")
    for axis in (pixels, targets):
        axis.set_xscale("log")
        axis.set_xlim(0.8e-7, 1.2 if axis is pixels else None)
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.14))  # below, where no curve is
    pixels.set_title("ROC of pixels; x: the network's own threshold", fontsize=10)
    ends = f"{PROBABILITIES[0]} to {PROBABILITIES[-1]}"
    targets.set_title(f"targets; {len(PROBABILITIES)} thresholds, {ends}; x: its own", fontsize=10)
    figure.savefig(path)
