"""INT8 models are made of wide convolutions alone, and written only if they answer well enough."""

import numpy as np
import pytest

from engine.base import FULL_RANGE, load_engine
from engine.contract import read_model
from training import quantise as quantiser
from training.export import describe, export
from training.quantise import chosen, quantise, shown
from training.sets import read_split
from training.weights import save_network

pytestmark = pytest.mark.timeout(600)  # torch takes seconds of CPU to export, minutes where it is shared


@pytest.fixture(scope="module")
def exported(make_network, tmp_path_factory):
    """A random network of two stages, whose merge has one wide layer."""
    folder = tmp_path_factory.mktemp("wide")
    network = make_network(stages=2, channels=16, bottleneck=2, merge_layers=1, target_layers=1, background_layers=1)
    save_network(network, folder / "net.safetensors")
    export(network, folder / "net.onnx", describe(network, folder / "net.safetensors", "net", "dots"))
    return folder / "net.onnx"


def test_wide_convolutions_alone_are_quantised(exported):
    """The merge's layer of 16 channels is; it answers nearly alike; everything else is left float32."""
    pytest.importorskip("nncf")
    model, info = read_model(exported)
    nodes = chosen(model, "net", [])
    assert len(nodes) == 1
    frames = [np.random.default_rng(seed).integers(0, 256, (24, 32), np.uint8) for seed in range(2)]
    small = quantise(model, nodes, frames)
    kinds = [node.op_type for node in small.graph.node]
    assert kinds.count("QuantizeLinear") == 1
    assert kinds.count("DequantizeLinear") == 2  # of its maps and of its weights
    window = np.array([[0, 255]], np.float32)
    want, found = (quantiser._engine(m, info).infer(frames[0][None, None], window).astype(int) for m in (model, small))
    assert np.abs(want - found).max() <= 8


def test_a_model_for_16_bit_is_shown_the_same_frames(make_network, tmp_path):
    """A data set's 8 bits span the 16: black is black, white is white, and the answers are those of the 8-bit model."""
    network = make_network(stages=1, bottleneck=2)
    save_network(network, tmp_path / "net.safetensors")
    frame = np.arange(256, dtype=np.uint8).reshape(16, 16)
    answers = []
    for bits in (8, 16):
        about = describe(network, tmp_path / "net.safetensors", "net", "dots", bits)
        export(network, tmp_path / f"net{bits}.onnx", about)
        window = np.array([FULL_RANGE[bits]], np.float32)
        engine = load_engine(str(tmp_path / f"net{bits}.onnx"), "onnxruntime", bits)
        answers.append(engine.infer(shown(frame, bits), window))
    assert np.array_equal(*answers)


TRAIN = {"other": ["train0", "train1"], "held out": ["train11", "train39"]}  # by the CRC of their names


def write_set(folder, name="set", frames=(*TRAIN["other"], *TRAIN["held out"])):
    """Training frames of noise with a target each; there is no test split."""
    import cv2

    root = folder / name
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "train.txt").write_text("\n".join(frames))
    for i, frame in enumerate(frames):
        mask = np.zeros((24, 32), np.uint8)
        mask[4:7, 5:8] = 255
        pixels = np.random.default_rng(i).integers(0, 256, (24, 32), np.uint8)
        cv2.imwrite(str(root / "images" / f"{frame}.png"), pixels)
        cv2.imwrite(str(root / "masks" / f"{frame}.png"), mask)
    return root


def test_training_frames_that_were_held_out_decide(exported, tmp_path, monkeypatch):
    """A tenth by name is measured on, the others calibrate, and test frames are not so much as read."""
    seen = {}
    monkeypatch.setattr(quantiser, "quantise", lambda model, _, frames, __: seen.update(calibrated=frames) or model)
    monkeypatch.setattr(quantiser, "measure", lambda _, samples, __: seen.update(measured=samples) or [0.9, 0.9])
    data = write_set(tmp_path)
    quantiser.main(str(exported), data, tmp_path / "q.onnx", 32, None, 1)
    samples = {sample.name: sample for sample in read_split(data, "train")}
    assert [sample.name for sample in seen["measured"]] == TRAIN["held out"]
    assert all(
        np.array_equal(frame, samples[name].frame)
        for frame, name in zip(seen["calibrated"], TRAIN["other"], strict=True)
    )


def test_too_few_frames_to_hold_some_out(exported, tmp_path, capsys):
    """A set none of whose frames is held out, or all are, is refused in one line."""
    for name, frames in TRAIN.items():
        with pytest.raises(SystemExit):
            quantiser.main(str(exported), write_set(tmp_path, name, frames), tmp_path / "q.onnx", 32, None, 1)
        assert "2 training frames are too few to calibrate" in capsys.readouterr().err


@pytest.mark.parametrize(("why", "lost", "written"), [("little is lost", 0.004, True), ("too much", 0.006, False)])
def test_a_model_that_loses_too_much_is_not_written(why, lost, written, exported, tmp_path, monkeypatch, capsys):
    """Half a point of IoU is the limit; what was measured is said either way."""
    monkeypatch.setattr(quantiser, "quantise", lambda model, *_: model)
    monkeypatch.setattr(quantiser, "measure", lambda engines, samples, threshold: [0.9, 0.9 - lost])
    out = tmp_path / "q.onnx"
    if written:
        quantiser.main(str(exported), write_set(tmp_path), out, 32, None, 1)
        assert read_model(out)[1].name == "net_int8"
        assert "89.60 with 1 convolutions in INT8" in capsys.readouterr().out
        assert load_engine(str(out), "openvino").info.name == "net_int8"
    else:
        with pytest.raises(SystemExit) as stopped:
            quantiser.main(str(exported), write_set(tmp_path), out, 32, None, 1)
        assert stopped.value.code == 2
        assert "not written, for it loses more than 0.5 points: IoU 90.00" in capsys.readouterr().err
        assert not out.exists()


BAD = [
    ("nothing wide", {"model": "rpcanet_plus_k1"}, "rpcanet_plus_k1: no convolution is wide enough"),
    ("a model that is none", {"model": "nope"}, "nope: no such model"),
    ("a pattern that finds nothing", {"keep": ["zzz"]}, "--keep zzz: no wide convolution"),
    ("a pattern that is none", {"keep": ["("]}, "--keep (: a regular expression"),
    ("all kept", {"keep": ["merge"]}, "net: no convolution is wide enough"),
    ("another kind of file", {"out": "q.bin"}, "q.bin: a name that ends in .onnx"),
    ("no such set", {"data": "nowhere"}, "nowhere"),
]


@pytest.mark.parametrize(("why", "said", "error"), BAD, ids=[c[0] for c in BAD])
def test_bad_input_is_one_line(why, said, error, exported, tmp_path, capsys):
    """Whatever cannot be used is one line on stderr and exit code 2."""
    words = {"model": str(exported), "data": "set", "out": "q.onnx", "keep": None, **said}
    for key in ("data", "out"):
        words[key] = tmp_path / words[key]
    with pytest.raises(SystemExit) as stopped:
        quantiser.main(**words, frames=32, every=1)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert error in lines[0]
