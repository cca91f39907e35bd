"""Build a TensorRT plan of a model into the cache: ``python -m engine.build --model rpcanet_plus_k1``.

One code path serves TensorRT 11, whose networks are always strongly typed, TensorRT 10.16, which has a flag
for it, and TensorRT for RTX, which also builds on machines without a GPU.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import onnx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from engine.contract import FRAMES, WINDOW, EngineError, ModelError, ModelInfo, find_model, read_model
from engine.one_line import check_output, one_line_errors, run_command
from engine.parts import is_quantised
from engine.precision import PRECISIONS, Precision, to_half

LIBRARIES = ("tensorrt", "tensorrt_rtx")
Progressed = Callable[[str, str | None, int, int], None]
"""Told of a phase, its parent, steps done and steps in all; with as many done as there are, it has ended."""
Range = tuple[int, int, int]
"""The smallest, the one to tune for, and the largest."""


@dataclass(frozen=True)
class Recipe:
    """What a plan is built for.

    Attributes:
        precision: ``fp16`` or ``fp32``; of the first, what is in ``engine.precision.KEPT`` stays float32.
        batch: frames in a call.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        level: how long the builder searches, 0 to 5.
        gpu_arch: compute capability such as ``86``, for a plan that another machine is to run; None: this GPU's.
    """

    precision: Precision = "fp16"
    batch: Range = (1, 8, 16)
    height: Range = (32, 512, 1024)
    width: Range = (32, 640, 1280)
    level: int = 3
    gpu_arch: str | None = None

    def covers(self, batch: int, height: int, width: int) -> bool:
        """Tell whether a plan of this recipe runs frames of that shape."""
        asked = ((self.batch, batch), (self.height, height), (self.width, width))
        return all(least <= value <= most for (least, _, most), value in asked)


@dataclass(frozen=True)
class Layer:
    """A layer of the network as TensorRT read it; a strongly typed build keeps its types.

    Attributes:
        name: from the ONNX node.
        kind: ``CONVOLUTION``, ``CAST`` and so on.
        types: of its outputs: ``HALF``, ``FLOAT``, ``INT64`` ...
    """

    name: str
    kind: str
    types: tuple[str, ...]


@dataclass(frozen=True)
class Built:
    """A plan and what came with it.

    Attributes:
        plan: what the library's runtime deserialises.
        timings: the library's timing cache, to make the next build faster; empty where it keeps none.
        layers: of the network.
        profiles: of each input, its smallest, usual and largest shape, as the library has taken them.
    """

    plan: bytes
    timings: bytes
    layers: list[Layer]
    profiles: dict[str, list[list[int]]]


def find_library(wanted: str | None = None) -> Any:  # noqa: ANN401 (a module without types)
    """Return the module of TensorRT, or of TensorRT for RTX where only that is installed.

    Raises:
        EngineError: if neither, or not the one that is wanted, is installed and loads.
    """
    said = "not installed"
    for name in (wanted,) if wanted else LIBRARIES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except Exception as error:  # a missing libnvinfer comes as OSError, RuntimeError or ImportError
            said = " ".join(str(error).split())[:200]
    extra = "rtx" if wanted == "tensorrt_rtx" else "tensorrt"
    raise EngineError(f"{wanted or 'tensorrt'}: {said}; pip install 'irstream[{extra}]'")


def build_plan(
    content: bytes,
    info: ModelInfo,
    recipe: Recipe,
    trt: Any,  # noqa: ANN401
    timings: bytes = b"",
    progress: Progressed | None = None,
) -> Built:
    """Build a plan.

    Args:
        content: an ONNX file's bytes, in the precision that is wanted; see ``onnx_for``.
        info: the model's.
        recipe: what to build for.
        trt: the library, see ``find_library``.
        timings: the timing cache of an earlier build on the same GPU; empty for none.
        progress: told of every phase and step.

    Raises:
        EngineError: if the library does not take the model or the recipe; says why.
    """
    errors: list[str] = []
    log = log_of(trt, errors)
    builder = trt.Builder(log)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        faults = [parser.get_error(i) for i in range(parser.num_errors)]
        said = "; ".join(f"{each.node_name()} {each.node_operator()}: {each.desc()}" for each in faults)
        raise EngineError(f"{info.name}: {trt.__name__} refuses the model ({_short(said)})")
    config = builder.create_builder_config()
    config.builder_optimization_level = recipe.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if progress:
        config.progress_monitor = _monitor(trt, progress)
    if recipe.gpu_arch:
        _set_arch(config, trt, recipe.gpu_arch)
    keeps_timings = trt.__name__ == "tensorrt"  # the other has none to keep
    if keeps_timings:
        config.set_timing_cache(config.create_timing_cache(timings), False)
    profile = builder.create_optimization_profile()
    shapes = list(zip(recipe.batch, recipe.height, recipe.width, strict=True))
    frames = [(n, 1, h, w) if info.bits == 8 else (n, 1, h, w, 2) for n, h, w in shapes]
    profile.set_shape(FRAMES, *frames)
    profile.set_shape(WINDOW, *[(n, 2) for n in recipe.batch])
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{info.name}: {trt.__name__} refuses the profile {frames} ({_short('; '.join(errors))})")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        why = "; ".join(errors) or "no reason given"
        raise EngineError(f"{info.name}: {trt.__name__} builds no plan ({_short(why)})")
    kept = bytes(config.get_timing_cache().serialize()) if keeps_timings else b""
    taken = {name: [list(shape) for shape in profile.get_shape(name)] for name in (FRAMES, WINDOW)}
    return Built(bytes(plan), kept, _layers(network), taken)


def onnx_for(model: onnx.ModelProto, info: ModelInfo, recipe: Recipe) -> bytes:
    """Return a model's ONNX bytes in a recipe's precision; the same bytes for the same model.

    Raises:
        EngineError: if the graph is not one that can be converted.
    """
    if is_quantised(model.graph):
        raise EngineError(f"{info.name}: its INT8 is for CPUs; a plan is made of the float32 model")
    try:
        converted = to_half(model) if recipe.precision == "fp16" else model
    except Exception as error:  # onnx's are no public classes
        raise EngineError(f"{info.name}: no FP16 model comes of its graph ({_short(str(error))})") from None
    content: bytes = converted.SerializeToString(deterministic=True)
    return content


def _set_arch(config: Any, trt: Any, arch: str) -> None:  # noqa: ANN401
    names = [name for name in dir(getattr(trt, "ComputeCapability", None)) if name.startswith("SM")]
    if f"SM{arch}" not in names:
        can = f"it builds for {', '.join(name[2:] for name in names)}" if names else "it builds for this GPU alone"
        raise EngineError(f"--gpu-arch {arch}: {trt.__name__} does not build for it; {can}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{arch}"), 0)


def _layers(network: Any) -> list[Layer]:  # noqa: ANN401
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    return [
        Layer(each.name, each.type.name, tuple(each.get_output(j).dtype.name for j in range(each.num_outputs)))
        for each in layers
    ]


def _short(said: str) -> str:
    return " ".join(said.split())[:300]


def log_of(trt: Any, errors: list[str]) -> Any:  # noqa: ANN401
    """Return a logger for ``trt`` that appends what goes wrong to ``errors``."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                errors.append(message)

    return Log()


def _monitor(trt: Any, progress: Progressed) -> Any:  # noqa: ANN401
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, tuple[str | None, int]] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = parent, steps
            progress(phase, parent, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            parent, steps = self.steps[phase]
            progress(phase, parent, min(step + 1, steps - 1), steps)
            return True

        def phase_finish(self, phase: str) -> None:
            parent, steps = self.steps.pop(phase)
            progress(phase, parent, steps, steps)

    return Monitor()


class Bar:
    """A progress bar on stderr, one line a phase that is under way; a context manager."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)  # started by its first phase
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar.live.is_started:  # rich ends what never began with an empty line
            self._bar.stop()

    def show(self, phase: str, parent: str | None, done: int, steps: int) -> None:
        """Take what ``build_plan`` tells of its progress; nothing is shown where stderr is no terminal."""
        if not self._bar.console.is_terminal:
            return
        self._bar.start()
        if done == steps:
            if phase in self._tasks:
                self._bar.remove_task(self._tasks.pop(phase))
        elif phase in self._tasks:
            self._bar.update(self._tasks[phase], completed=done)
        else:
            self._tasks[phase] = self._bar.add_task(("  " if parent else "") + phase, total=steps)


@one_line_errors(EngineError)
def main(
    model: Annotated[str, typer.Option(help="A shipped model's name, or an .onnx file.")],
    precision: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16",
    batch: Annotated[str, typer.Option(help="Frames in a call, LEAST:USUAL:MOST.")] = "1:8:16",
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT, least:usual:most.")] = "32x32:640x512:1280x1024",
    level: Annotated[int, typer.Option(help="How long the builder searches.", min=0, max=5)] = 3,
    bits: Annotated[int, typer.Option(help="Depth of the frames: 8 or 16.")] = 8,
    gpu_arch: Annotated[str | None, typer.Option(help="Compute capability such as 86; else this GPU's.")] = None,
    library: Annotated[str | None, typer.Option(help="tensorrt or tensorrt_rtx; else what is installed.")] = None,
    inspect: Annotated[bool, typer.Option("--inspect", help="Build anew and print every layer and its types.")] = False,
    json_path: Annotated[str | None, typer.Option("--json", help="Write what was built here; - is stdout.")] = None,
) -> None:
    """Build a model's TensorRT plan and keep it in the cache, where the pipeline finds it."""
    from engine.plan_cache import build_timed, cache_folder, key_of, load_or_build

    check_output("--json", json_path)
    if precision not in PRECISIONS:
        raise EngineError(f"--precision {precision}: {' or '.join(PRECISIONS)} is expected")
    if library not in (None, *LIBRARIES):
        raise EngineError(f"--library {library}: {' or '.join(LIBRARIES)} is expected")
    if bits not in (8, 16):
        raise EngineError(f"--bits {bits}: 8 or 16 is expected")
    sizes = [_size(part, size) for part in size.split(":")]
    recipe = Recipe(
        precision, _range("--batch", batch, batch.split(":")), _range("--size", size, [h for _, h in sizes]),
        _range("--size", size, [w for w, _ in sizes]), level, gpu_arch,
    )  # fmt: skip
    proto, info = read_model(find_model(model, bits))
    if info.bits != bits:
        raise ModelError(f"{model}: a model for {info.bits}-bit frames; one for {bits} bit is needed")
    trt = find_library(library)
    content = onnx_for(proto, info, recipe)
    folder, key = cache_folder(), key_of(content, recipe, trt)
    built: list[Built] = []

    def build() -> bytes:
        with Bar() as bar:
            built.append(build_timed(folder, key, content, info, recipe, trt, bar.show))
        return built[0].plan

    plan = build() if inspect else load_or_build(folder, key, build, bytes)
    said = {"plan": str(folder / f"{key.slot()}.plan"), "bytes": len(plan), "built": bool(built)}
    if inspect and built:
        said |= {"profiles": built[0].profiles, "layers": [vars(layer) for layer in built[0].layers]}
    if json_path == "-":
        print(json.dumps(said, indent=2))
    elif json_path:
        Path(json_path).write_text(json.dumps(said, indent=2) + "\n")
    if json_path != "-":
        if inspect and built:
            table = Table("layer", "kind", "makes")
            for layer in built[0].layers:
                table.add_row(layer.name, layer.kind, ", ".join(layer.types))
            Console().print(table)
        what = ("built, not kept" if inspect else "built") if built else "already there"
        print(f"{said['plan']}: {len(plan)} bytes, {what}")


def _size(text: str, whole: str) -> tuple[int, int]:
    match = re.fullmatch(r"0*([1-9]\d{0,4})x0*([1-9]\d{0,4})", text.strip())
    if not match:
        raise EngineError(f"--size {whole!r}: WIDTHxHEIGHT:WIDTHxHEIGHT:WIDTHxHEIGHT is expected")
    return int(match[1]), int(match[2])


def _range(option: str, text: str, parts: list[str] | list[int]) -> Range:
    whole = [int(part) if re.fullmatch(r"\d{1,5}", str(part)) else 0 for part in parts]
    if len(whole) == 1:
        whole *= 3
    if len(whole) != 3 or not 1 <= whole[0] <= whole[1] <= whole[2]:
        raise EngineError(f"{option} {text!r}: three that rise, LEAST:USUAL:MOST, or one are expected")
    return whole[0], whole[1], whole[2]


if __name__ == "__main__":
    run_command(main)
