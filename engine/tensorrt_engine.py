"""TensorRT: the engine for NVIDIA GPUs. It has been tested against imitations only, never run on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from engine.base import Frames, blank_input, check_input, one_line
from engine.build import Bar, Recipe, build_plan, find_library, log_of, onnx_for
from engine.contract import FRAMES, TARGETS, WINDOW, EngineError, ModelInfo
from engine.cuda import ask, cuda_runtime
from engine.plan_cache import Key, PlanRefusedError, build_timed, cache_folder, key_of, load_or_build

LANES = 2  # one batch is copied while another is computed
MAX_SHAPES = 16  # kept a lane; each holds the memory of its activations


@dataclass(eq=False)
class _Program:
    """What a lane needs to run one shape: addresses never change, so that a CUDA graph may hold them."""

    context: Any
    device: list[int]  # of frames, window, targets and activations
    host_window: NDArray[np.float32]
    host_targets: NDArray[np.uint8]
    host: list[int]
    graph: Any = None
    runs: int = 0


@dataclass(eq=False)
class _Lane:
    """A stream with its buffers; one batch at a time."""

    stream: Any
    events: list[Any]  # start, uploaded, computed, downloaded
    programs: dict[tuple[int, ...], _Program] = field(default_factory=dict)
    ticket: Ticket | None = None


@dataclass(frozen=True, eq=False)
class Ticket:
    """A batch that is on its way; ``collect`` takes it once.

    Attributes:
        lane: which of the two carries it.
        program: what runs it.
        frames: held, for the GPU may still be reading them.
    """

    lane: int
    program: _Program
    frames: Frames


class TensorRtEngine:
    """A model in FP16 on the first GPU that CUDA shows; its plan is built at the first use.

    Ask ``engine.cuda.find_gpu`` first: without CUDA, TensorRT's runtime looks valid and crashes later.

    Attributes:
        times_ms: of the batch collected last, by CUDA events: ``upload``, ``compute``, ``download``.

    Raises:
        EngineError: if TensorRT is not installed or does not take the model, or the GPU fails.
    """

    name = "tensorrt"
    best_batch = Recipe().batch[1]

    def __init__(self, content: bytes, info: ModelInfo) -> None:
        self.info = info
        self.times_ms: dict[str, float] = {}
        self._cuda = cuda_runtime()
        self._trt = find_library()
        self._model = onnx.load_from_string(content)
        self._errors: list[str] = []
        self._runtime = self._trt.Runtime(log_of(self._trt, self._errors))
        if self._runtime is None:
            raise EngineError(f"{info.name}: {self._trt.__name__} has no runtime here ({self._said()})")
        self._plans: dict[Recipe, Any] = {}
        self._lanes = [self._lane() for _ in range(LANES)]
        self._next = 0
        usual = Recipe()
        self.prepare(1, usual.height[1], usual.width[1])  # what does not work is known here, where auto goes on

    def prepare(self, batch: int, height: int, width: int) -> None:
        arrays = blank_input(self.info, batch, height, width)
        for _ in range(2 * LANES):  # the first run of each lane makes all that is needed, the second its graph
            self.infer(*arrays)

    def infer(self, frames: Frames, window: NDArray[np.float32]) -> NDArray[np.uint8]:
        return self.collect(self.submit(frames, window))

    def submit(self, frames: Frames, window: NDArray[np.float32]) -> Ticket:
        """Send a batch on its way; see ``Engine.infer``. Two may be, and ``frames`` stay as they are until collected.

        Raises:
            EngineError: if the arrays are not right, both lanes are taken, or the GPU fails.
        """
        check_input(self.info, frames, window)
        lane = self._lanes[self._next]
        if lane.ticket:
            raise EngineError(f"{self.info.name}: {LANES} batches are on their way; collect the first")
        frames = np.ascontiguousarray(frames)
        program = self._program(lane, frames.shape)
        program.host_window[:] = window
        start, uploaded, computed, downloaded = lane.events
        to_frames, to_window, from_targets, _ = program.device
        self._record(start, lane)
        self._copy("upload", to_frames, frames.ctypes.data, frames.nbytes, lane)
        self._copy("upload", to_window, program.host_window.ctypes.data, program.host_window.nbytes, lane)
        self._record(uploaded, lane)
        self._compute(program, lane)
        self._record(computed, lane)
        self._copy("download", program.host_targets.ctypes.data, from_targets, program.host_targets.nbytes, lane)
        self._record(downloaded, lane)
        lane.ticket = Ticket(self._next, program, frames)
        self._next = (self._next + 1) % LANES
        return lane.ticket

    def collect(self, ticket: Ticket) -> NDArray[np.uint8]:
        """Wait for a batch and return its target maps, uint8 ``[batch, 1, height, width]``, the caller's to keep.

        Raises:
            EngineError: if it was collected before, or the GPU fails.
        """
        lane = self._lanes[ticket.lane]
        if lane.ticket is not ticket:
            raise EngineError(f"{self.info.name}: this batch was collected before")
        self._ask("waiting for a batch", self._cuda.cudaEventSynchronize(lane.events[-1]))
        lane.ticket = None
        for name, since, at in zip(("upload", "compute", "download"), lane.events, lane.events[1:], strict=False):
            self.times_ms[name] = self._ask("timing", self._cuda.cudaEventElapsedTime(since, at))
        return ticket.program.host_targets.copy()

    def lock_pages(self, memory: NDArray[Any]) -> bool:
        """Let the GPU read memory straight from where it is; tell whether it can. It must outlive the engine.

        Where it cannot, the driver copies by way of its own memory, which takes longer.
        """
        (code,) = self._cuda.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0)
        self._cuda.cudaGetLastError()  # forgets the failure
        return bool(code == self._cuda.cudaError_t.cudaSuccess)

    def _lane(self) -> _Lane:
        flags = self._cuda.cudaStreamNonBlocking  # a capture may not meet the default stream
        stream = self._ask("making a stream", self._cuda.cudaStreamCreateWithFlags(flags))
        return _Lane(stream, [self._ask("making an event", self._cuda.cudaEventCreate()) for _ in range(4)])

    def _compute(self, program: _Program, lane: _Lane) -> None:
        if program.runs == 1:
            program.graph = self._capture(program, lane)
        program.runs += 1
        if program.graph is not None:
            self._ask("running", self._cuda.cudaGraphLaunch(program.graph, lane.stream))
        elif not program.context.execute_async_v3(int(lane.stream)):
            raise EngineError(f"{self.info.name}: TensorRT fails to run ({self._said()})")

    def _capture(self, program: _Program, lane: _Lane) -> Any:  # noqa: ANN401
        """Return a graph of the program's run; None where it cannot be captured, which costs time alone."""
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._ask("capturing", cuda.cudaStreamBeginCapture(lane.stream, mode))
        enqueued = program.context.execute_async_v3(int(lane.stream))
        code, graph = cuda.cudaStreamEndCapture(lane.stream)
        if not enqueued or code != cuda.cudaError_t.cudaSuccess:
            cuda.cudaGetLastError()
            return None
        made = self._ask("making a graph", cuda.cudaGraphInstantiate(graph, 0))
        self._ask("making a graph", cuda.cudaGraphDestroy(graph))
        return made

    def _program(self, lane: _Lane, shape: tuple[int, ...]) -> _Program:
        program = lane.programs.pop(shape, None)
        if program is None:
            while len(lane.programs) >= MAX_SHAPES:
                self._free(lane.programs.pop(next(iter(lane.programs))))
            program = self._make(shape)
        lane.programs[shape] = program  # the last used is the last to go
        return program

    def _make(self, shape: tuple[int, ...]) -> _Program:
        batch, _, height, width = shape[:4]
        engine = self._plan(batch, height, width)
        # Its own memory would be that of the largest shape of the profile.
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(f"{self.info.name}: no context for frames of {list(shape)} ({self._said()})")
        sizes = {FRAMES: int(np.prod(shape)), WINDOW: 8 * batch, TARGETS: batch * height * width}
        taken = context.set_input_shape(FRAMES, shape) and context.set_input_shape(WINDOW, (batch, 2))
        activations = context.update_device_memory_size_for_shapes() if taken else 0
        made: list[int] = []
        host: list[int] = []
        try:  # what a failure leaves is freed
            for size in (*sizes.values(), max(activations, 1)):
                made.append(self._ask(f"{size / 1e6:.0f} MB of GPU memory", self._cuda.cudaMalloc(size)))  # noqa: PERF401
            for size in (sizes[WINDOW], sizes[TARGETS]):
                host.append(self._ask("page-locked memory", self._cuda.cudaMallocHost(size)))  # noqa: PERF401
            context.set_device_memory(made[3], activations)
            taken = taken and all(
                context.set_tensor_address(name, at) for name, at in zip(sizes, made[:3], strict=True)
            )
            if not taken:
                raise EngineError(f"{self.info.name}: TensorRT refuses frames of {list(shape)} ({self._said()})")
        except EngineError:
            for at in made:
                self._cuda.cudaFree(at)
            for at in host:
                self._cuda.cudaFreeHost(at)
            raise
        window = _view(host[0], sizes[WINDOW]).view(np.float32).reshape(batch, 2)
        targets = _view(host[1], sizes[TARGETS]).reshape(batch, 1, height, width)
        return _Program(context, made, window, targets, host)

    def _free(self, program: _Program) -> None:
        if program.graph is not None:
            self._cuda.cudaGraphExecDestroy(program.graph)
        for at in program.device:
            self._cuda.cudaFree(at)
        for at in program.host:
            self._cuda.cudaFreeHost(at)

    def _plan(self, batch: int, height: int, width: int) -> Any:  # noqa: ANN401
        """Return a deserialised plan that covers a shape: the usual one, or else one of that very size."""
        usual = Recipe()
        fitted = Recipe(batch=(1, batch, max(batch, usual.batch[2])), height=(height,) * 3, width=(width,) * 3)
        recipe = usual if usual.covers(batch, height, width) else fitted
        known = next((engine for made, engine in self._plans.items() if made.covers(batch, height, width)), None)
        if known is None:
            known = self._plans[recipe] = self._load(recipe)
        return known

    def _load(self, recipe: Recipe) -> Any:  # noqa: ANN401
        content = onnx_for(self._model, self.info, recipe)
        try:
            folder = cache_folder()
        except EngineError as error:
            print(f"warning: {error}; plans are not kept", file=sys.stderr)
            folder = None
        key: Key = key_of(content, recipe, self._trt)

        def build() -> bytes:
            where = f"{self._trt.__name__} {key.version}, {key.gpu}, {recipe.precision}"
            print(f"building a plan of {self.info.name} ({where}); this may take minutes, once ...", file=sys.stderr)
            with Bar() if sys.stderr.isatty() else contextlib.nullcontext() as bar:
                show = bar.show if bar else None
                if folder is None:
                    return build_plan(content, self.info, recipe, self._trt, progress=show).plan
                return build_timed(folder, key, content, self.info, recipe, self._trt, show).plan

        return load_or_build(folder, key, build, self._deserialise)

    def _deserialise(self, plan: bytes) -> Any:  # noqa: ANN401
        self._errors.clear()
        try:
            engine = self._runtime.deserialize_cuda_engine(plan)
        except Exception as error:
            raise PlanRefusedError(f"{self._trt.__name__} refuses the plan ({one_line(error)})") from None
        if engine is None:
            raise PlanRefusedError(f"{self._trt.__name__} refuses the plan ({self._said()})")
        return engine

    def _copy(self, doing: str, to: int, source: int, size: int, lane: _Lane) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDefault
        self._ask(doing, self._cuda.cudaMemcpyAsync(to, source, size, kind, lane.stream))

    def _record(self, event: Any, lane: _Lane) -> None:  # noqa: ANN401
        self._ask("timing", self._cuda.cudaEventRecord(event, lane.stream))

    def _ask(self, doing: str, answer: tuple[Any, ...]) -> Any:  # noqa: ANN401
        try:
            return ask(self._cuda, doing, answer)
        except EngineError as error:
            raise EngineError(f"{self.info.name}: {error}") from None

    def _said(self) -> str:
        said = one_line(RuntimeError("; ".join(self._errors))) if self._errors else "it gives no reason"
        self._errors.clear()
        return said


def _view(address: int, size: int) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))
