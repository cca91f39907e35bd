"""Weights go to disk and come back; the authors' files tell their own configuration."""

import json

import pytest
import torch
from safetensors.torch import save_file

from training.model import NetworkConfig
from training.weights import WeightsError, load_network, save_network

AUTHORS = [
    ("SIRST_Aug_mIoU_74.56", 215_916, NetworkConfig(bottleneck=4, carry_noise=False)),
    ("NUDT_SIRST_mIoU_92.37", 475_188, NetworkConfig(bottleneck=16, carry_noise=False)),
    ("IRSTD_1K_mIoU_64.68", 433_428, NetworkConfig(bottleneck=16, noise_layers=3, carry_noise=False)),
]


@pytest.mark.parametrize(("key", "parameters", "config"), AUTHORS, ids=[c[0] for c in AUTHORS])
def test_the_authors_checkpoints_are_three_networks(key, parameters, config, data):
    """Each checkpoint's shapes tell its widths and depths; none of them carries N."""
    network, metadata = load_network(data / "checkpoints" / "l-rpcanet" / f"{key}.pkl")
    assert sum(value.numel() for value in network.parameters()) == parameters
    assert network.config == config
    assert not network.training
    assert metadata == {}


def test_what_was_saved_is_loaded(make_network, tmp_path):
    """Weights, configuration and metadata come back as they were."""
    network = make_network(stages=2, channels=16, bottleneck=3, noise_layers=2)
    save_network(network, tmp_path / "n.safetensors", note="hello")
    again, metadata = load_network(tmp_path / "n.safetensors")
    assert again.config == network.config
    assert metadata == {"note": "hello"}
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "n.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def broken(tmp_path, make_network, how):
    path = tmp_path / "w.safetensors"
    network = make_network(stages=1, channels=16, bottleneck=2)
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    config = {"stages": 1, "channels": 16, "bottleneck": 2}
    if how == "garbage":
        path.write_bytes(b"not weights")
    elif how == "truncated":
        save_network(network, path)
        path.write_bytes(path.read_bytes()[:2000])
    elif how == "no config":
        save_file(state, path)
    elif how == "unknown config":
        save_file(state, path, {"config": json.dumps({**config, "depth": 3})})
    elif how == "other widths":
        save_file(state, path, {"config": json.dumps({**config, "channels": 32})})
    elif how == "a missing weight":
        save_file({k: v for k, v in state.items() if "epsilon" not in k}, path, {"config": json.dumps(config)})
    elif how == "a directory":
        path.mkdir()
    elif how == "an exported model":
        path = tmp_path / "w.onnx"
        path.write_bytes(b"graph")
    elif how in ("a pickle of something else", "an executable pickle", "text"):
        path = tmp_path / "w.pkl"
        if how == "text":
            path.write_text("weights")
        else:
            torch.save({"epoch": 3} if "else" in how else {"call": print}, path)
    return path


BROKEN = [
    ("garbage", "not a weights file of irstream"),
    ("truncated", "not a weights file of irstream"),
    ("no config", "not a weights file of irstream"),
    ("unknown config", "not a weights file of irstream"),
    ("other widths", "its weights do not fit"),
    ("a missing weight", "its weights do not fit"),
    ("a directory", "a folder; weights are a file, of a run its best.safetensors"),
    ("nothing", "no such file; weights are a .safetensors file or an authors' .pkl"),
    ("an exported model", "an exported model; the weights it was made of are needed"),
    ("a pickle of something else", "not an RPCANet\\+ checkpoint"),
    ("an executable pickle", "not an RPCANet\\+ checkpoint"),
    ("text", "not an RPCANet\\+ checkpoint"),
]


@pytest.mark.parametrize(("how", "said"), BROKEN, ids=[c[0] for c in BROKEN])
def test_a_file_that_is_no_network_is_refused(how, said, tmp_path, make_network):
    """Whatever is wrong with a file, the error is one line that names it."""
    path = broken(tmp_path, make_network, how)
    with pytest.raises(WeightsError, match=said) as caught:
        load_network(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_another_networks_checkpoint_is_refused(data):
    """RPCANet is not RPCANet+."""
    with pytest.raises(WeightsError, match="not an RPCANet\\+ checkpoint"):
        load_network(data / "checkpoints" / "rpcanet" / "NUDT.pkl")
