"""What the engines on an NVIDIA GPU share: two batches on their way at once, page-locked memory, CUDA graphs, times."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.base import STEPS, Frames, blank_input, check_input
from engine.contract import FRAMES, TARGETS, WINDOW, EngineError, ModelInfo
from engine.cuda import ask

LANES = 2  # one batch is copied while another is computed
MAX_SHAPES = 16  # kept a lane; each holds the memory of its activations


@dataclass(eq=False)
class Buffers:
    """The memory of one shape in one lane.

    Attributes:
        device: addresses of frames, window, targets and activations.
        window: page-locked.
        targets: page-locked.
        host: addresses of both.
    """

    device: list[int]
    window: NDArray[np.float32]
    targets: NDArray[np.uint8]
    host: list[int]


@dataclass(eq=False)
class Program:
    """What a lane needs to run one shape: addresses never change, so that a CUDA graph may hold them.

    Attributes:
        work: what the engine enqueues.
        buffers: the memory.
        graph: the run, captured; None before, or where that fails.
        runs: how often it ran.
    """

    work: Any
    buffers: Buffers
    graph: Any = None
    runs: int = 0


@dataclass(eq=False)
class Lane:
    """A stream; one batch at a time."""

    stream: Any
    events: list[Any]  # start, uploaded, computed, downloaded
    programs: dict[tuple[int, ...], Program] = field(default_factory=dict)
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
    program: Program
    frames: Frames


class LaneEngine:
    """An engine on the first GPU that CUDA shows; what it enqueues for a batch is its own.

    Attributes:
        times_ms: of the batch collected last, by ``STEPS``, as CUDA events tell.
    """

    info: ModelInfo

    def __init__(self, info: ModelInfo, cuda: Any) -> None:  # noqa: ANN401 (a module without types)
        self.info = info
        self.times_ms: dict[str, float] = {}
        self._cuda = cuda
        self._lanes = [self._lane() for _ in range(LANES)]
        self._next = 0

    def _make(self, shape: tuple[int, ...]) -> Program:
        """Return what runs a shape."""
        raise NotImplementedError

    def _enqueue(self, program: Program, stream: Any) -> None:  # noqa: ANN401
        """Put a program's work into a stream, which may be captured into a graph.

        Raises:
            EngineError: if it is not taken.
        """
        raise NotImplementedError

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
        buffers = program.buffers
        buffers.window[:] = window
        start, uploaded, computed, downloaded = lane.events
        to_frames, to_window, from_targets, _ = buffers.device
        self._record(start, lane)
        self._copy("upload", to_frames, frames.ctypes.data, frames.nbytes, lane)
        self._copy("upload", to_window, buffers.window.ctypes.data, buffers.window.nbytes, lane)
        self._record(uploaded, lane)
        self._compute(program, lane)
        self._record(computed, lane)
        self._copy("download", buffers.targets.ctypes.data, from_targets, buffers.targets.nbytes, lane)
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
        for name, (since, at) in zip(STEPS, pairwise(lane.events), strict=True):
            self.times_ms[name] = self._ask("timing", self._cuda.cudaEventElapsedTime(since, at))
        targets = ticket.program.buffers.targets.copy()
        lane.ticket = None
        return targets

    def lock_pages(self, memory: NDArray[Any]) -> bool:
        """Let the GPU read memory straight from where it is; tell whether it can. It must outlive the engine.

        Where it cannot, the driver copies by way of its own memory, which takes longer.
        """
        (code,) = self._cuda.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0)
        self._cuda.cudaGetLastError()  # forgets the failure
        return bool(code == self._cuda.cudaError_t.cudaSuccess)

    def _lane(self) -> Lane:
        flags = self._cuda.cudaStreamNonBlocking  # a capture may not meet the default stream
        stream = self._ask("making a stream", self._cuda.cudaStreamCreateWithFlags(flags))
        return Lane(stream, [self._ask("making an event", self._cuda.cudaEventCreate()) for _ in range(4)])

    def _compute(self, program: Program, lane: Lane) -> None:
        if program.runs == 1:
            program.graph = self._capture(program, lane)
        program.runs += 1
        if program.graph is not None:
            self._ask("running", self._cuda.cudaGraphLaunch(program.graph, lane.stream))
        else:
            self._enqueue(program, lane.stream)

    def _capture(self, program: Program, lane: Lane) -> Any:  # noqa: ANN401
        """Return a graph of the program's run; None where it cannot be captured, which costs time alone."""
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._ask("capturing", cuda.cudaStreamBeginCapture(lane.stream, mode))
        enqueued = True
        try:
            self._enqueue(program, lane.stream)
        except EngineError:
            enqueued = False
        code, graph = cuda.cudaStreamEndCapture(lane.stream)
        if not enqueued or code != cuda.cudaError_t.cudaSuccess:
            cuda.cudaGetLastError()
            return None
        made = self._ask("making a graph", cuda.cudaGraphInstantiate(graph, 0))
        self._ask("making a graph", cuda.cudaGraphDestroy(graph))
        return made

    def _program(self, lane: Lane, shape: tuple[int, ...]) -> Program:
        program = lane.programs.pop(shape, None)
        if program is None:
            while len(lane.programs) >= MAX_SHAPES:
                self._free(lane.programs.pop(next(iter(lane.programs))))
            program = self._make(shape)
        lane.programs[shape] = program  # the last used is the last to go
        return program

    def _buffers(self, shape: tuple[int, ...], activations: int) -> Buffers:
        """Take the memory of a shape.

        Raises:
            EngineError: if there is too little; what was taken is given back.
        """
        batch, _, height, width = shape[:4]
        sizes = {FRAMES: int(np.prod(shape)), WINDOW: 8 * batch, TARGETS: batch * height * width}
        made: list[int] = []
        host: list[int] = []
        try:
            for size in (*sizes.values(), max(activations, 1)):
                made.append(self._ask(f"{size / 1e6:.0f} MB of GPU memory", self._cuda.cudaMalloc(size)))  # noqa: PERF401
            for size in (sizes[WINDOW], sizes[TARGETS]):
                host.append(self._ask("page-locked memory", self._cuda.cudaMallocHost(size)))  # noqa: PERF401
        except EngineError:
            self._give_back(made, host)
            raise
        window = _view(host[0], sizes[WINDOW]).view(np.float32).reshape(batch, 2)
        targets = _view(host[1], sizes[TARGETS]).reshape(batch, 1, height, width)
        return Buffers(made, window, targets, host)

    def _give_back(self, device: list[int], host: list[int]) -> None:
        for at in device:
            self._cuda.cudaFree(at)
        for at in host:
            self._cuda.cudaFreeHost(at)

    def _free(self, program: Program) -> None:
        if program.graph is not None:
            self._cuda.cudaGraphExecDestroy(program.graph)
        self._give_back(program.buffers.device, program.buffers.host)

    def _copy(self, doing: str, to: int, source: int, size: int, lane: Lane) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDefault
        self._ask(doing, self._cuda.cudaMemcpyAsync(to, source, size, kind, lane.stream))

    def _record(self, event: Any, lane: Lane) -> None:  # noqa: ANN401
        self._ask("timing", self._cuda.cudaEventRecord(event, lane.stream))

    def _ask(self, doing: str, answer: tuple[Any, ...]) -> Any:  # noqa: ANN401
        try:
            return ask(self._cuda, doing, answer)
        except EngineError as error:
            raise EngineError(f"{self.info.name}: {error}") from None


def _view(address: int, size: int) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))
