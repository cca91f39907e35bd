"""TensorRT: the engine for NVIDIA GPUs. Tested against imitations; its lanes have run on a GPU, TensorRT has not."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import onnx

from engine.asides import tell, warn
from engine.base import one_line
from engine.build import Bar, Recipe, build_plan, find_library, log_of, onnx_for
from engine.contract import FRAMES, TARGETS, WINDOW, EngineError, ModelInfo
from engine.cuda import cuda_runtime
from engine.lanes import LaneEngine, Program
from engine.plan_cache import Key, PlanRefusedError, build_timed, cache_folder, key_of, load_or_build


class TensorRtEngine(LaneEngine):
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
        super().__init__(info, cuda_runtime())
        self._trt = find_library()
        self._model = onnx.load_from_string(content)
        self._errors: list[str] = []
        self._runtime = self._trt.Runtime(log_of(self._trt, self._errors))
        if self._runtime is None:
            raise EngineError(f"{info.name}: {self._trt.__name__} has no runtime here ({self._said()})")
        self._plans: dict[Recipe, Any] = {}
        usual = Recipe()
        self.prepare(1, usual.height[1], usual.width[1])  # what does not work is known here, where auto goes on

    def _enqueue(self, program: Program, stream: Any) -> None:  # noqa: ANN401
        if not program.work.execute_async_v3(int(stream)):
            raise EngineError(f"{self.info.name}: TensorRT fails to run ({self._said()})")

    def _make(self, shape: tuple[int, ...]) -> Program:
        batch, _, height, width = shape[:4]
        engine = self._plan(batch, height, width)
        # Its own memory would be that of the largest shape of the profile.
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(f"{self.info.name}: no context for frames of {list(shape)} ({self._said()})")
        taken = context.set_input_shape(FRAMES, shape) and context.set_input_shape(WINDOW, (batch, 2))
        activations = context.update_device_memory_size_for_shapes() if taken else 0
        buffers = self._buffers(shape, activations)
        context.set_device_memory(buffers.device[3], activations)
        places = zip((FRAMES, WINDOW, TARGETS), buffers.device[:3], strict=True)
        if not (taken and all(context.set_tensor_address(name, at) for name, at in places)):
            self._give_back(buffers.device, buffers.host)
            raise EngineError(f"{self.info.name}: TensorRT refuses frames of {list(shape)} ({self._said()})")
        return Program(context, buffers)

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
            warn(f"{error}; plans are not kept")
            folder = None
        key: Key = key_of(content, recipe, self._trt)

        def build() -> bytes:
            where = f"{self._trt.__name__} {key.version}, {key.gpu}, {recipe.precision}"
            tell(f"building a plan of {self.info.name} ({where}); this may take minutes, once ...")
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

    def _said(self) -> str:
        said = one_line(RuntimeError("; ".join(self._errors))) if self._errors else "it gives no reason"
        self._errors.clear()
        return said
