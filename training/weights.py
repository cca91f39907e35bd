"""Weights on disk: safetensors with the network's widths beside them, and the authors' checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from training.model import NetworkConfig, RPCANetPlus

# The authors' names for the parts of a stage, and ours.
_PARTS = (
    (r"^decos\.", "stages."),
    (r"\.lowrank\.", ".background."),
    (r"\.sparse\.epsilon$", ".epsilon"),
    (r"\.sparse\.", ".target."),
    (r"\.residual\.sigma$", ".sigma"),
    (r"\.residual\.", ".noise."),
    (r"\.merge\.mapping\.", ".merge."),
    (r"\.channel_attention\.", ".head."),
    (r"\.final_conv\.", ".head.project."),
)


class WeightsError(ValueError):
    """A weights file that cannot be used; the message names it and says why."""


def save_network(network: RPCANetPlus, path: Path, **metadata: str) -> None:
    """Write the weights as safetensors, with the network's configuration and ``metadata`` in the header.

    Whoever reads the file meanwhile finds the old one or the new one whole.
    """
    header = {"config": json.dumps(asdict(network.config)), **metadata}
    new = path.with_name(f"{path.name}.new")
    # As bytes, for what the library writes itself is its owner's alone to read.
    new.write_bytes(save({name: value.contiguous() for name, value in network.state_dict().items()}, header))
    new.replace(path)


def load_network(path: Path) -> tuple[RPCANetPlus, dict[str, str]]:
    """Load a network in evaluation mode and its metadata.

    Args:
        path: a ``.safetensors`` file of ours, or a checkpoint of the RPCANet+ authors as they
            publish it (a plain state dict, ``.pkl``), whose shapes tell its configuration.

    Raises:
        WeightsError: if the file is neither.
    """
    if path.is_dir():
        raise WeightsError(f"{path}: a folder; weights are a file, of a run its best.safetensors")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; weights are a .safetensors file or an authors' .pkl")
    if path.suffix == ".onnx":
        raise WeightsError(f"{path}: an exported model; the weights it was made of are needed, a .safetensors file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                metadata = dict(file.metadata() or {})
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            config = NetworkConfig(**json.loads(metadata.pop("config")))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path}: not a weights file of irstream ({error})") from None
    else:
        metadata = {}
        try:
            state = _our_names(torch.load(path, map_location="cpu", weights_only=True))
            config = _config_of(state)
        except Exception as error:  # torch.load raises whatever the bytes led it to
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(f"{path}: not an RPCANet+ checkpoint ({reason})") from None
    network = RPCANetPlus(config)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        said = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{path}: not an RPCANet+ checkpoint: its weights do not fit ({said})") from None
    return network.eval(), metadata


def first_stages(network: RPCANetPlus, count: int, path: Path) -> RPCANetPlus:
    """Return the network that ends after ``count`` stages; with deep supervision, every stage learned to answer.

    Raises:
        WeightsError: if it has fewer; names ``path``, which it was loaded from.
    """
    if count > len(network.stages):
        raise WeightsError(f"--stages {count}: {path} has {len(network.stages)}")
    shorter = RPCANetPlus(replace(network.config, stages=count)).eval()
    for mine, its in zip(shorter.stages, network.stages, strict=False):
        mine.load_state_dict(its.state_dict())
    return shorter


def _our_names(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an authors' state dict: the last entry of a chain's ``convs`` is our ``expand``."""
    last: dict[str, int] = {}
    for name in theirs:
        if match := re.match(r"(.*)\.convs\.(\d+)\.", name):
            last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    ours = {}
    for name, value in theirs.items():
        ours[_rename(name, last)] = value
    merge_head = 3 * _count(ours, r"stages\.0\.merge\.\d+\.running_mean")
    return {name.replace(".merge.head.", f".merge.{merge_head}."): value for name, value in ours.items()}


def _rename(theirs: str, last: Mapping[str, int]) -> str:
    name = theirs
    if match := re.match(r"(.*)\.convs\.(\d+)\.(.*)", theirs):
        chain, index, rest = match[1], int(match[2]), match[3]
        name = f"{chain}.expand.{rest}" if index == last[chain] else f"{chain}.layers.{index}.{rest}"
    for pattern, replacement in _PARTS:
        name = re.sub(pattern, replacement, name)
    return name


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in state)


def _config_of(state: Mapping[str, Tensor]) -> NetworkConfig:
    """Read the configuration off the shapes; the authors' networks start every stage from N = 0."""
    channels, bottleneck = state["stages.0.target.expand.weight"].shape[:2]
    return NetworkConfig(
        stages=_count(state, r"stages\.\d+\.epsilon"),
        channels=channels,
        bottleneck=bottleneck,
        background_layers=_count(state, r"stages\.0\.background\.layers\.\d+\.running_mean") - 1,
        target_layers=_count(state, r"stages\.0\.target\.layers\.\d+\.weight") - 1,
        noise_layers=_count(state, r"stages\.0\.noise\.layers\.\d+\.weight") - 1,
        merge_layers=_count(state, r"stages\.0\.merge\.\d+\.running_mean") - 1,
        carry_noise=False,
    )
