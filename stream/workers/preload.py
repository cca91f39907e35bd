"""What the fork server imports once, so that a worker starts in milliseconds; nothing else may import this file.

Whatever starts a thread when it is imported (OpenVINO, ONNX Runtime) must not be among it: no thread survives a fork.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import setproctitle

import stream.sources.images
import stream.sources.scene
import stream.sources.video
import stream.workers.capture
import stream.workers.infer
import stream.workers.record
import stream.workers.track
from stream.compiled import is_kept
from stream.detect import DetectConfig, detect

stream.workers.die_with_parent()  # and the workers die with it
if str(os.getppid()) != os.environ.get("IRSTREAM_SUPERVISOR"):  # it died before we asked to be told
    sys.exit(1)
if is_kept("detect_kernels.find"):  # else the worker that needs it compiles it, and says when it is ready
    detect(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), DetectConfig())
    detect(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint16), DetectConfig())
setproctitle.setproctitle("irstream fork server")
