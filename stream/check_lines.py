"""What ``run_pipeline.py --check`` found, in words."""

from __future__ import annotations

from stream.check import FULL, CameraCheck, Check, ModelCheck, shipped_models


def describe(found: Check) -> list[str]:
    """Return what the check found as lines for people, the answer last."""
    lines = [_camera_line(camera) for camera in found.cameras]
    lines += [f"warning: {warning}" for warning in found.warnings]
    if not found.models:
        return [*lines, "no camera gave a frame: nothing to time the engine on"]
    mine = found.models[0]
    lines.append(f"engine: {mine.model} on {mine.engine}, ready after {mine.load_s:.1f} s")
    for size, cost in mine.costs.items():
        lines.append(
            f"  {size}: engine {cost.engine_ms:.1f} ms a frame (p99 {cost.engine_p99_ms:.1f}), detection and tracking "
            f"{cost.track_ms:.1f} ms"
        )
    if not found.needed_fps:
        lines.append(f"nothing here is live: it waits, and goes at up to {mine.possible_fps:.0f} frames/s")
        return lines
    busy = ", ".join(f"{name} {100 * load:.0f} %" for name, load in mine.loads.items())
    lines.append(f"busy: {busy} (of {found.cpus:g} cores; the cameras take {found.capture_cpus:.2f})")
    lines.append(_verdict(found, mine))
    return lines + _suggestion(found)


def _camera_line(camera: CameraCheck) -> str:
    if camera.fault:
        return f"{camera.name}: FAILED: {camera.fault}"
    size = f"{camera.width}x{camera.height}, {camera.bits} bit"
    stated = f" (it states {camera.stated_fps:.4g})" if camera.stated_fps else ""
    rate = f"{camera.fps:.1f} frames/s{stated}" if camera.fps else "waits" if not camera.live else "one frame only"
    lost = f", {camera.lost} lost" if camera.lost else ""
    return f"{camera.name}: {size}, {rate}, first frame after {camera.first_frame_s:.2f} s{lost}"


def _verdict(found: Check, mine: ModelCheck) -> str:
    times = mine.possible_fps / found.needed_fps
    say = "keeps up" if mine.keeps_up else "too close to keep up for sure" if times >= 1 else "does not keep up"
    what = {"engine": "the engine", "tracker": "detection and tracking", "cores": "the cores"}[mine.limit]
    return (
        f"{say}: {found.needed_fps:.0f} frames/s are needed, {mine.possible_fps:.0f} possible ({times:.2f} times); "
        f"the limit is {what}"
    )


def _suggestion(found: Check) -> list[str]:
    """Say which of the shipped models fit, and which to take: the one of most stages that does.

    Of those of as many stages, which sensor each is for decides, and only who runs it knows that.
    """
    lines = []
    if len(found.models) > 1:
        fits = [f"{model.model} {model.possible_fps / found.needed_fps:.2f} times" for model in found.models]
        lines.append(f"possible over needed: {', '.join(fits)}")
    mine = found.models[0]
    stages = {model.model: model.stages for model in found.models if model.keeps_up}
    most = max(stages.values(), default=0)
    best = next((name for name in shipped_models() if stages.get(name) == most), None)
    if best and most > stages.get(mine.model, 0):
        lines.append(f"suggested: model: {best}, the largest of the shipped models that keeps up here")
    elif not found.keeps_up:
        share = FULL * found.models[0].possible_fps / found.needed_fps
        lines.append(f"no shipped model keeps up: give it {share:.2f} of the frames/s, fewer pixels, or more cores")
    return lines
