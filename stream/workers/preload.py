"""What the fork server imports once, so that a worker starts in milliseconds; nothing else may import this file.

Whatever starts a thread when it is imported (OpenVINO, ONNX Runtime) must not be among it: no thread survives a fork.
"""

from __future__ import annotations

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

stream.workers.die_with_parent()  # and the workers die with it
if str(os.getppid()) != os.environ.get("IRSTREAM_SUPERVISOR"):  # it died before we asked to be told
    sys.exit(1)
setproctitle.setproctitle("irstream fork server")
