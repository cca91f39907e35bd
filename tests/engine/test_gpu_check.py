"""The check of a GPU, without one: what it compares, and what it says where there is none."""

import dataclasses

import pytest

from engine import gpu_check
from engine.base import load_engine
from engine.contract import NoGpuError


def test_parity_finds_what_differs(monkeypatch):
    """An engine is like itself; one whose answers are off by a tenth is not fine."""
    monkeypatch.setattr(gpu_check, "SIZES", [(64, 48)])
    engine = load_engine("rpcanet_plus_k1", "onnxruntime")
    assert [case["largest"] for case in gpu_check.parity(engine, engine)] == [0, 0]

    @dataclasses.dataclass
    class Off:
        name = "tensorrt"
        info = engine.info

        def infer(self, frames, window):
            return (engine.infer(frames, window).astype(int) + 26).clip(0, 255).astype("uint8")

    assert not any(case["fine"] for case in gpu_check.parity(Off(), engine))


@pytest.mark.parametrize("bits", [8, 16])
def test_its_frames_are_an_engines(bits):
    """Frames of both depths are what a model takes, and hold a target that it finds."""
    engine = load_engine("rpcanet_plus_k1", "onnxruntime", bits)
    found = engine.infer(*gpu_check.noisy_frames(2, 48, 64, bits))
    assert (found.max((1, 2, 3)) > 128).all()


def test_without_a_gpu_it_is_one_line(monkeypatch, capsys):
    """A machine without a GPU ends it with 2 and one line."""

    def none():
        raise NoGpuError("no GPU here")

    monkeypatch.setattr(gpu_check, "find_gpu", none)
    with pytest.raises(SystemExit) as caught:
        gpu_check.main("rpcanet_plus_k1", 1.0, "-", "cuda")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: no GPU here\n"


def test_an_engine_without_a_gpu_is_refused(capsys):
    """A CPU's engine is none to check."""
    with pytest.raises(SystemExit):
        gpu_check.main("rpcanet_plus_k1", 1.0, "-", "openvino")
    assert capsys.readouterr().err == "error: --engine 'openvino': tensorrt or cuda is expected\n"
