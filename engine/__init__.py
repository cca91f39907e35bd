"""ONNX in, target maps out. Knows no stream; imports no torch."""

import os
import sys

# OpenVINO tells its maker of every import, ONNX Runtime of every session, unless told not to. What a camera sees, when
# and where is nobody's business, and a machine without a way out has no time to wait for theirs.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # to OpenVINO: it is not installed

if sys.argv[:1] == ["-m"]:  # so it is while a command of ours is being found
    from engine.asides import start_quietly

    start_quietly()
