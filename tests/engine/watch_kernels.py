"""Run the CUDA engine's kernels on a CPU under AddressSanitizer and UndefinedBehaviorSanitizer.

``PYTHONPATH=. python tests/engine/watch_kernels.py MODEL.onnx 1x71x53 2x33x17``; a size is FRAMESxWIDTHxHEIGHT. What
a GPU has in one piece of memory (maps, sums, each array of weights) is here an allocation each, of its very size, and
so is shared memory: a read or a write outside of them, a prefetch of what is not there and a vector that is not
aligned end the run. It is no test, for it takes twenty seconds a model.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import emulator
import numpy as np

from engine import cuda_plan
from engine.base import blank_input
from engine.contract import read_model
from engine.cuda_plan import Room, room_for
from engine.cuda_weights import Weights


class Watched(emulator.Emulated):
    """A model on an emulated GPU where every array is an allocation: addresses stand for places in one."""

    def __init__(self, proto, info, folder):
        self.kept = []
        Weights.put = self.put
        super().__init__(proto, info, folder, flags=emulator.WATCHED)

    def put(self, values):
        self.kept.append(np.array(values, order="C"))
        return self.kept[-1].ctypes.data

    def infer(self, frames, window):
        cuda_plan.ALIGNED = 1  # sizes without what fills them up
        room = room_for(self.weights, len(frames), *frames.shape[2:4], self.together)
        ends = [*list(room.places.values())[1:], room.size]
        memory = {
            name: np.full(end - at, 0 if at < room.zeroed else 0xFF, np.uint8)
            for (name, at), end in zip(room.places.items(), ends, strict=True)
        }
        places = {name: array.ctypes.data for name, array in memory.items()}
        return self.launch(frames, window, 0, 0, Room(places, 0, 0, room.together))


def main(model, *sizes):
    if "PYTHONMALLOC" not in os.environ:  # the sanitizers' runtime must be there before Python
        print_name = ["g++", "-print-file-name=libasan.so"]
        runtime = subprocess.run(print_name, check=True, capture_output=True, text=True).stdout.strip()
        # Python and numpy keep what they hold, and a fiber's stack is none that AddressSanitizer knows.
        options = "detect_leaks=0:detect_stack_use_after_return=0"
        more = {"LD_PRELOAD": runtime, "ASAN_OPTIONS": options, "PYTHONMALLOC": "malloc"}
        return subprocess.run([sys.executable, *sys.argv], env=os.environ | more, check=False).returncode
    proto, info = read_model(Path(model))
    with tempfile.TemporaryDirectory() as folder:
        watched = Watched(proto, info, folder)
        for size in sizes:
            batch, width, height = map(int, size.split("x"))
            watched.infer(*blank_input(info, batch, height, width))
            print(f"{model} {size}: fine", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
