"""The engine that is none keeps the contract, and is as slow as it is asked to be."""

import time

import cv2
import numpy as np
import pytest

from engine.base import FULL_RANGE, blank_input, load_engine
from engine.contract import EngineError


@pytest.mark.parametrize("bits", [8, 16])
def test_it_answers_four_targets_whatever_it_sees(bits, tiny_model):
    """Two frames of either depth have two maps, each with four spots in it that are the caller's to keep."""
    engine = load_engine(str(tiny_model(bits=bits)), "null", bits)
    engine.prepare(2, 64, 96)
    frames, window = blank_input(engine.info, 2, 64, 96)
    maps = engine.infer(frames, window)
    assert (maps.shape, maps.dtype) == ((2, 1, 64, 96), np.uint8)
    assert [cv2.connectedComponents(part[0])[0] - 1 for part in maps] == [4, 4]
    maps[:] = 7
    assert set(np.unique(engine.infer(frames, window))) == {0, 255}


def test_a_slow_one_takes_its_time_over_each_frame(tiny_model):
    """Three frames at 20 ms each take 60 ms or more."""
    engine = load_engine(str(tiny_model()), "null:20")
    frames = np.zeros((3, 1, 16, 16), np.uint8)
    before = time.monotonic()
    engine.infer(frames, np.array([FULL_RANGE[8]] * 3, np.float32))
    assert time.monotonic() - before >= 0.06


@pytest.mark.parametrize("name", ["null:", "null:fast", "null:-1", "null:nan", "null:1e9", "nullity"])
def test_one_that_makes_no_sense_is_refused(name, tiny_model):
    """A time that is none, or a name that is another, is answered with what would be right."""
    with pytest.raises(EngineError, match=name):
        load_engine(str(tiny_model()), name)
