"""ONNX in, target maps out. Knows no stream; imports no torch."""
