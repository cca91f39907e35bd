"""What comes from outside, drawn by Hypothesis: it is understood or refused in one line, never anything else.

``make fuzz`` draws 10,000 cases a test, the suite a few.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream import StreamError
from stream.config import Config, ConfigError, load_config
from stream.messages import KINDS, DetectionsMessage, StatusMessage, TracksMessage, TruthMessage, decode
from stream.sources import check_source
from stream.sources.base import SourceError
from stream.sources.images import read_image

ROOT = Path(__file__).parents[1]
GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.msgpack"))
MESSAGES = (TracksMessage, DetectionsMessage, TruthMessage, StatusMessage)
many = settings(
    max_examples=int(os.environ.get("FUZZ_CASES", "25")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
text = st.text(max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text | st.binary(max_size=8) | st.dates()
keys = st.sampled_from([
    *Config.model_fields, *(k for f in Config.model_fields.values() for k in getattr(f.annotation, "model_fields", ())),
    "name", "source", "live", "window",
]) | text  # fmt: skip
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file or message with some bytes changed, cut out, put in or cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.integers(0, 3)):
            case 0 if content:
                content[at] = draw(st.integers(0, 255))
            case 1:
                del content[at : at + draw(st.integers(1, 40))]
            case 2:
                content[at:at] = draw(st.binary(min_size=1, max_size=16))
            case _:
                del content[at:]
    return bytes(content)


def one_line(error: Exception) -> None:
    said = str(error)
    assert said
    assert said.isprintable(), repr(said)
    assert len(said) < 2000


def load(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        loaded = load_config(path)
    except ConfigError as error:
        one_line(error)
        return
    for stream in loaded.streams:
        try:
            check_source(stream.source)
        except StreamError as error:
            one_line(error)


@many
@given(tree=trees)
def test_any_tree_of_values_is_a_configuration_or_is_refused(tmp_path: Path, tree: object) -> None:
    load(tmp_path / "c.yaml", yaml.safe_dump(tree).encode())


@many
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda s: s.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_configuration_or_are_refused(tmp_path: Path, content: bytes) -> None:
    load(tmp_path / "c.yaml", content)


@many
@given(data=st.data())
def test_a_damaged_configuration_is_one_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    load(tmp_path / "c.yaml", data.draw(damaged((ROOT / "configs" / "demo.yaml").read_bytes())))


@many
@given(overridden=st.dictionaries(keys, trees, max_size=4))
def test_a_good_configuration_with_any_values_in_it_is_one_or_is_refused(
    tmp_path: Path, overridden: dict[str, object]
) -> None:
    good = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    load(tmp_path / "c.yaml", yaml.safe_dump({**good, **overridden}).encode())


@many
@given(topic=st.sampled_from([f"{kind}/a" for kind in KINDS]) | text, payload=st.binary(max_size=200))
def test_any_bytes_are_a_message_or_are_refused(topic: str, payload: bytes) -> None:
    hear(topic, payload)


@many
@given(data=st.data())
def test_a_damaged_message_is_one_or_is_refused(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(GOLDEN))
    topic = json.loads(path.with_suffix(".json").read_text())["topic"]
    hear(topic, data.draw(damaged(path.read_bytes())))


@many
@given(data=st.data())
def test_any_map_of_a_messages_fields_is_a_message_or_is_refused(data: st.DataObject) -> None:
    fields = st.sampled_from([f for message in MESSAGES for f in message.__struct_fields__])
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | text | st.binary(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text | fields, inner, max_size=4), max_leaves=12,
    )  # fmt: skip
    hear(
        f"{data.draw(st.sampled_from(KINDS))}/a",
        msgspec.msgpack.encode(data.draw(st.dictionaries(fields, values, max_size=12))),
    )


def hear(topic: str, payload: bytes) -> None:
    try:
        message = decode(topic, payload)
    except ValueError:
        return
    assert isinstance(message, MESSAGES)


@cache
def image(suffix: str, bits: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 2**bits, (24, 32)).astype(np.uint8 if bits == 8 else np.uint16)
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize(
    ("suffix", "bits"), [(".png", 8), (".png", 16), (".tif", 16), (".tiff", 8), (".bmp", 8), (".jpg", 8)]
)
@many
@given(data=st.data())
def test_a_damaged_image_is_read_or_refused(tmp_path: Path, suffix: str, bits: int, data: st.DataObject) -> None:
    path = tmp_path / f"1{suffix}"
    path.write_bytes(data.draw(damaged(image(suffix, bits)) | st.binary(max_size=64)))
    try:
        pixels = read_image(path)
    except SourceError as error:
        one_line(error)
        return
    assert pixels.ndim == 2
    assert pixels.dtype in (np.uint8, np.uint16)
