"""RPCANet+: robust PCA unrolled into K stages that split a frame into background, targets and noise.

Each stage refines ``D ~ B + T + N`` (frame = background + targets + noise):

    B = x + W(x),            x = D - T - N
    T = x - epsilon H(x),    x = T + D - B - N
    N = x - sigma F(x),      x = N + D - B - T
    D = M(B + T + N)

T is a logit: a pixel belongs to a target where T > 0. A stage has 35,986 parameters at the
published widths. The last stage's N and D never reach T: they serve the training loss alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SQUEEZE = 16  # the attention is c -> c / 16 -> c


@dataclass(frozen=True)
class NetworkConfig:
    """The widths and depths of an RPCANet+; the defaults are the published ones.

    Attributes:
        stages: K, the number of unrolled iterations.
        channels: c, the width of the maps that the attention weighs.
        bottleneck: b, the width of the chains in W, H and F.
        background_layers: 3x3 layers b -> b in W.
        target_layers: 3x3 layers b -> b in H.
        noise_layers: 3x3 layers b -> b in F.
        merge_layers: 3x3 layers c -> c in M.
        carry_noise: True hands N from stage to stage, as the published equations do; False
            starts every stage from N = 0, as the authors' code and checkpoints do.
        rebuild: False leaves out F and M, most of the arithmetic: N stays 0, and every stage is given the frame itself.
            Their weights are there and do nothing.
    """

    stages: int = 6
    channels: int = 32
    bottleneck: int = 4
    background_layers: int = 3
    target_layers: int = 6
    noise_layers: int = 6
    merge_layers: int = 3
    carry_noise: bool = True
    rebuild: bool = True


@dataclass(frozen=True)
class Decomposition:
    """What one stage made of a frame; every field is ``[batch, 1, height, width]``.

    ``noise`` and ``frame`` are None where the caller did not want the last stage's, and without F and M.
    """

    background: Tensor
    target: Tensor
    noise: Tensor | None
    frame: Tensor | None


@cache
def _thin_of(device: str) -> ModuleType | None:
    """Return the thin convolutions that train a network on a kind of device; None where PyTorch's have to do."""
    name = {"cpu": "training.thin", "cuda": "training.thin_gpu"}.get(device)
    try:
        return import_module(name) if name else None
    except ModuleNotFoundError as error:
        if error.name not in ("numba", "triton"):
            raise
        return None


class WeighAndProject(nn.Module):
    """Squeeze-and-excitation over c channels, then a 3x3 convolution c -> 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels // SQUEEZE, 1)
        self.excitation = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1), nn.Sigmoid()
        )
        self.project = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[batch, 1, h, w]`` from ``x``, ``[batch, c, h, w]``."""
        scale: Tensor = self.excitation(x.mean((2, 3), keepdim=True))
        if (
            self.training and (thin := _thin_of(x.device.type)) and thin.MERGES
        ):  # a matrix product: cuDNN is slow at one map
            taps = F.pad(self.project.weight.flatten(2)[0], (0, thin.TAPS - 9))  # [c, TAPS]
            (n, c, h, w), weight = x.shape, taps * scale[..., 0]  # [n, c, TAPS]
            made: Tensor = thin.fold(x.permute(0, 2, 3, 1).reshape(n, h * w, c) @ weight, h, w)
            return made + self._bias()
        if self.training:
            out: Tensor = self.project(x * scale)
            return out
        # A 3x3 convolution from c maps to one costs a CPU as much as one to sixteen. One of 1x1 to nine
        # maps, one a tap, whose shifted sum is a 3x3 convolution of zeros and ones, saves a quarter of
        # a K=1 network in OpenVINO and in ONNX Runtime, and an eighth of K=6.
        taps = self.project.weight.flatten(2)[0].T[..., None, None]  # [9, c, 1, 1]
        shifts = torch.eye(9, dtype=x.dtype, device=x.device).view(1, 9, 3, 3)
        return F.conv2d(F.conv2d(x * scale, taps), shifts, self.project.bias, padding=1)

    def _bias(self) -> Tensor:
        assert self.project.bias is not None
        return self.project.bias

    def folded(self, x: Tensor, expand: nn.Conv2d, thin: ModuleType) -> Tensor:
        """Return ``self(expand(x))`` without ever making the c-channel map; exact up to rounding.

        Nothing between ``expand`` (3x3, b -> c) and the output is non-linear but the weights of
        the attention, and those need only the mean of ``expand(x)``, which follows from sums of
        ``x``. So a frame's three steps are one 3x3 convolution b -> 9 (one map a tap of the
        projection) and nine shifted sums, or one 5x5 convolution b -> 1 away from the border.

        Args:
            x: a padded map of b channels (see training.thin).
            expand: the convolution that would make the c-channel map.
            thin: the thin convolutions of x's device.

        Returns:
            ``[batch, 1, h, w]``.
        """
        assert expand.bias is not None
        h, w = x.shape[2] - 2 * thin.PAD, x.shape[3] - 2 * thin.PAD
        taps = self.project.weight.flatten(2)[0]  # [c, 9]
        mean = torch.einsum("cbij,nbij->nc", expand.weight, thin.window_sums(x)) / (h * w) + expand.bias
        scale = self.excitation(mean[..., None, None])[..., 0, 0]  # [n, c]
        weight = torch.einsum("ck,nc,cbij->nkbij", taps, scale, expand.weight)  # [n, 9, b, 3, 3]
        bias = torch.einsum("ck,nc,c->nk", taps, scale, expand.bias)  # [n, 9]
        made: Tensor = thin.tail(x, weight, bias)
        return made + self._bias()


def _folded_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias that do what a convolution and its frozen batch norm do."""
    assert conv.bias is not None
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return conv.weight * scale[:, None, None, None], (conv.bias - norm.running_mean) * scale + norm.bias


@torch.no_grad()
def _start_open(layers: nn.Sequential) -> None:
    """Start a thin chain as one that hands its channels on, half of them negated, plus a little noise.

    A random start lets most ReLUs of a chain this thin die, or leaves so little of a faint target at its end that a
    thousand steps go by before anything is learned.
    """
    for index, part in enumerate(part for part in layers if isinstance(part, nn.Conv2d)):
        assert part.bias is not None
        outputs, inputs, middle = part.weight.shape[0], part.weight.shape[1], part.weight.shape[2] // 2
        nn.init.normal_(part.weight, std=0.1)
        nn.init.zeros_(part.bias)
        for output in range(outputs):
            if index:
                part.weight[output, output % inputs, middle, middle] += 1
            else:
                sign = 1 - 2 * (output % 2)
                part.weight[output, 0, middle, middle] = sign
                part.bias[output] = 0.5 if sign < 0 else -0.05 * output


class Chain(nn.Module):
    """A chain of thin convolutions 1 -> b -> ... -> b -> c, weighed and projected to one map."""

    def __init__(self, config: NetworkConfig, layers: int, first_kernel: int, normalise: bool) -> None:
        super().__init__()
        b = config.bottleneck
        parts: list[nn.Module] = []
        for layer in range(layers + 1):
            size = 3 if layer else first_kernel
            parts.append(nn.Conv2d(b if layer else 1, b, size, padding=size // 2))
            parts += [nn.BatchNorm2d(b), nn.ReLU()] if normalise else [nn.ReLU()]
        self.layers = nn.Sequential(*parts)
        _start_open(self.layers)
        self.expand = nn.Conv2d(b, config.channels, 3, padding=1)
        self.head = WeighAndProject(config.channels)

    def forward(self, x: Tensor) -> Tensor:
        shared = any(isinstance(part, nn.SyncBatchNorm) for part in self.layers)  # whose statistics GPUs exchange
        if self.training and not shared and (thin := _thin_of(x.device.type)):
            with torch.autocast(x.device.type, enabled=False):  # it saves nothing here, and rounds the attention
                return self.head.folded(self._thin(x, thin), self.expand, thin)
        out: Tensor = self.head(self.expand(self.layers(x)))
        return out

    def _thin(self, x: Tensor, thin: ModuleType) -> Tensor:
        """Return the padded map of ``self.layers``; frozen batch norm costs nothing."""
        norms = [part for part in self.layers if isinstance(part, nn.BatchNorm2d)]
        weights, biases = [], []
        for index, part in enumerate(part for part in self.layers if isinstance(part, nn.Conv2d)):
            weight, bias = part.weight, part.bias
            assert bias is not None
            if norms and not norms[index].training:
                weight, bias = _folded_norm(part, norms[index])
            weights.append(weight if weight.shape[2] == 3 else F.pad(weight, (1, 1, 1, 1)))
            biases.append(bias)
        x = thin.pad(x)
        if not any(norm.training for norm in norms):
            made: Tensor = thin.chain(x, weights, biases)
            return made
        for weight, bias, norm in zip(weights, biases, norms, strict=True):
            x = thin.norm_relu(thin.chain(x, [weight], [bias], relu=False), norm)
        return x


class Stage(nn.Module):
    """One iteration: W, H, F and M with the learned step sizes epsilon and sigma."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        c = config.channels
        self.background = Chain(config, config.background_layers, first_kernel=1, normalise=True)
        self.target = Chain(config, config.target_layers, first_kernel=1, normalise=False)
        self.noise = Chain(config, config.noise_layers, first_kernel=3, normalise=False)
        merge: list[nn.Module] = []
        for layer in range(config.merge_layers + 1):
            merge += [nn.Conv2d(c if layer else 1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU()]
        self.merge = nn.Sequential(*merge, WeighAndProject(c))
        # As published, epsilon starts at 0.01. Here H's output starts a hundredth as large instead: the same T, but an
        # optimizer that moves all weights alike has it grow a hundred times sooner.
        self.epsilon = nn.Parameter(torch.tensor([1.0]))
        with torch.no_grad():
            for value in self.target.head.project.parameters():
                value.mul_(0.01)
        self.sigma = nn.Parameter(torch.tensor([0.01]))

    def split(self, frame: Tensor, target: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next B and T from D, T and N."""
        x = frame - target - noise
        background = x + self.background(x)
        x = target + frame - background - noise
        return background, x - self.epsilon * self.target(x)

    def rebuild(self, frame: Tensor, background: Tensor, target: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next N and D from D, the next B and T, and N."""
        x = noise + frame - background - target
        noise = x - self.sigma * self.noise(x)
        return noise, self._merge(background + target + noise)

    def _merge(self, x: Tensor) -> Tensor:
        """Return M(x), in training as the device does it soonest.

        On a CPU, frozen batch norm is folded into the convolutions, a quarter less to do.
        """
        if self.training and (thin := _thin_of(x.device.type)) and thin.MERGES:
            return self._merge_on_gpu(x, thin)
        *layers, head = self.merge
        norms = [part for part in layers if isinstance(part, nn.BatchNorm2d)]
        if not self.training or x.device.type != "cpu" or any(norm.training for norm in norms):
            merged: Tensor = self.merge(x)
            return merged
        convs = [part for part in layers if isinstance(part, nn.Conv2d)]
        for conv, norm in zip(convs, norms, strict=True):
            x = F.relu_(F.conv2d(x, *_folded_norm(conv, norm), padding=1))
        found: Tensor = head(x)
        return found

    def _merge_on_gpu(self, x: Tensor, thin: ModuleType) -> Tensor:
        """Return M(x), its first convolution as a matrix product: cuDNN is slow at one map."""
        first, *layers = self.merge
        assert isinstance(first, nn.Conv2d)
        n, _, h, w = x.shape
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        weight = F.pad(first.weight.flatten(1).flip(1), (0, thin.TAPS - 9))  # [c, TAPS], as neighbours are
        wide = F.linear(thin.neighbours(x, dtype), weight, first.bias)  # [n, h * w, c]
        x = wide.reshape(n, h, w, -1).permute(0, 3, 1, 2)
        for layer in layers:
            x = layer(x)
        return x


class RPCANetPlus(nn.Module):
    """The network: frames in [0, 1] in, target logits out."""

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or NetworkConfig()
        self.stages = nn.ModuleList(Stage(self.config) for _ in range(self.config.stages))
        with torch.no_grad():
            # A later stage begins by handing T on (doubled), not by adding what random filters make of it: a network
            # that grows by stages is never worse than the one that it grew from.
            for stage in self.stages[1:]:
                assert isinstance(stage, Stage)
                stage.background.head.project.weight.mul_(0.01)

    def forward(self, frame: Tensor) -> Tensor:
        """Return the last stage's T, ``[batch, 1, h, w]`` logits, of float frames of that shape."""
        return self.decompose(frame, whole=False)[-1].target

    def decompose(self, frame: Tensor, whole: bool = True) -> list[Decomposition]:
        """Return every stage's B, T, N and D.

        Args:
            frame: ``[batch, 1, h, w]``, float, in [0, 1].
            whole: also compute the last stage's N and D, which no target needs.
        """
        target = noise = torch.zeros_like(frame)
        found: list[Decomposition] = []
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, Stage)
            background, target = stage.split(frame, target, noise)
            if not self.config.rebuild or (index == len(self.stages) - 1 and not whole):
                found.append(Decomposition(background, target, None, None))
                continue
            next_noise, frame = stage.rebuild(frame, background, target, noise)
            found.append(Decomposition(background, target, next_noise, frame))
            if self.config.carry_noise:
                noise = next_noise
        return found
