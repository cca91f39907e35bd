"""What the fork server imports once, so that a worker starts in milliseconds; nothing else may import this file.

Whatever starts a thread when it is imported (OpenVINO, ONNX Runtime) must not be among it: no thread survives a fork.
"""

from __future__ import annotations

import contextlib
import os
import sys

import setproctitle

import stream.sources.images
import stream.sources.scene
import stream.sources.video
import stream.workers.capture
import stream.workers.infer
import stream.workers.record
import stream.workers.track
from stream.detect import DetectConfig
from stream.track import TrackConfig

stream.workers.die_with_parent()  # and the workers die with it
if str(os.getppid()) != os.environ.get("IRSTREAM_SUPERVISOR"):  # it died before we asked to be told
    sys.exit(1)
with contextlib.suppress(Exception):  # the worker that needs it tries again, and can say what is wrong
    stream.workers.track.warm_up(DetectConfig(), TrackConfig())
setproctitle.setproctitle("irstream fork server")
