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
    """

    stages: int = 6
    channels: int = 32
    bottleneck: int = 4
    background_layers: int = 3
    target_layers: int = 6
    noise_layers: int = 6
    merge_layers: int = 3
    carry_noise: bool = True


@dataclass(frozen=True)
class Decomposition:
    """What one stage made of a frame; every field is ``[batch, 1, height, width]``.

    ``noise`` and ``frame`` are None where the caller did not want the last stage's.
    """

    background: Tensor
    target: Tensor
    noise: Tensor | None
    frame: Tensor | None


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

    def folded(self, x: Tensor, expand: nn.Conv2d) -> Tensor:
        """Return ``self(expand(x))`` without ever making the c-channel map.

        Nothing between ``expand`` (3x3, b -> c) and the output is non-linear but the weights of
        the attention, and those need only the mean of ``expand(x)``, which follows from sums of
        ``x``. So a frame's three steps are one 3x3 convolution b -> 9 (one map a tap of the
        projection) and nine shifted sums. Exact up to rounding, the zero padding included, and
        twice as fast to train on a CPU.

        Args:
            x: ``[batch, b, h, w]``.
            expand: the convolution that would make the c-channel map.

        Returns:
            ``[batch, 1, h, w]``.
        """
        assert expand.bias is not None
        h, w = x.shape[2:]
        taps = self.project.weight.flatten(2)[0]  # [c, 9]
        mean = torch.einsum("cbij,nbij->nc", expand.weight, _window_sums(x)) / (h * w) + expand.bias
        scale = self.excitation(mean[..., None, None])[..., 0, 0]  # [n, c]
        weight = torch.einsum("ck,nc,cbij->nkbij", taps, scale, expand.weight)  # [n, 9, b, 3, 3]
        bias = torch.einsum("ck,nc,c->nk", taps, scale, expand.bias)  # [n, 9]
        maps = torch.cat([F.conv2d(*one, padding=1) for one in zip(x[:, None], weight, bias, strict=True)])
        # Shifts by padding and cropping: the gradient of a slice would be a whole map of zeros each.
        shifted = [F.pad(tap, (1 - k % 3, k % 3 - 1, 1 - k // 3, k // 3 - 1)) for k, tap in enumerate(maps.unbind(1))]
        return torch.stack(shifted, 1).sum(1, keepdim=True) + self._bias()


def _window_sums(x: Tensor) -> Tensor:
    """Sum the nine zero-padded shifts of ``x``, ``[n, b, h, w]``, over the frame: ``[n, b, 3, 3]``."""
    rows = torch.stack([x[:, :, :-1].sum(2), x.sum(2), x[:, :, 1:].sum(2)], 2)
    return torch.stack([rows[..., :-1].sum(3), rows.sum(3), rows[..., 1:].sum(3)], 3)


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
        for part in self.layers:
            if isinstance(part, nn.Conv2d):  # torch's own start lets most of a thin chain's ReLUs die
                assert part.bias is not None
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                nn.init.zeros_(part.bias)
        self.expand = nn.Conv2d(b, config.channels, 3, padding=1)
        self.head = WeighAndProject(config.channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x)
        if self.training and x.device.type == "cpu":
            return self.head.folded(x, self.expand)
        out: Tensor = self.head(self.expand(x))
        return out


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
        self.epsilon = nn.Parameter(torch.tensor([0.01]))
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
        return noise, self.merge(background + target + noise)


class RPCANetPlus(nn.Module):
    """The network: frames in [0, 1] in, target logits out."""

    def __init__(self, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or NetworkConfig()
        self.stages = nn.ModuleList(Stage(self.config) for _ in range(self.config.stages))

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
            if index == len(self.stages) - 1 and not whole:
                found.append(Decomposition(background, target, None, None))
                break
            next_noise, frame = stage.rebuild(frame, background, target, noise)
            found.append(Decomposition(background, target, next_noise, frame))
            if self.config.carry_noise:
                noise = next_noise
        return found
