"""Thin convolutions on a CPU, compiled with Numba: what a chain of RPCANet+ needs to train, several times faster.

PyTorch's convolutions are made for wide maps; at 4 channels they leave most of a core idle. These are 3x3 with zero
padding, float32, one thread; autograd sees them as a few functions.

Maps travel *padded*: ``[n, c, h + 4, w + 4]``, contiguous, with two pixels of zeros around the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from training import thin_kernels as kernels
from training.norm import keep_statistics
from training.thin_kernels import Array

PAD = kernels.PAD
MERGES = False  # M's ends are PyTorch's convolutions


def _transposed(weight: Array) -> Array:
    """Return the weights of the convolution that carries gradients back."""
    return np.ascontiguousarray(weight.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, relu: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        values = [value.detach().numpy() for value in parameters]
        maps = [x.detach().numpy()]
        for weight, bias in zip(values[::2], values[1::2], strict=True):
            n, _, h, w = maps[-1].shape
            maps.append(np.empty((n, len(weight), h, w), np.float32))
            for one, made in zip(maps[-2], maps[-1], strict=True):
                kernels.convolve(one, weight, bias, made, relu)
        ctx.maps, ctx.values, ctx.relu = maps, values, relu
        return torch.from_numpy(maps[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, weights = ctx.maps, ctx.values[::2]
        gradient = gradients[0].contiguous().numpy().copy()
        found: list[Tensor] = []
        for layer in range(len(weights) - 1, -1, -1):
            d_weight, d_bias = np.zeros_like(weights[layer]), np.zeros(len(weights[layer]), np.float32)
            back = np.empty_like(maps[layer]) if layer or ctx.needs_input_grad[1] else None
            turned = _transposed(weights[layer])
            none = np.zeros(len(turned), np.float32)
            for index in range(len(gradient)):
                if ctx.relu:
                    kernels.mask(gradient[index], maps[layer + 1][index])
                kernels.weight_gradient(maps[layer][index], gradient[index], d_weight, d_bias)
                if back is not None:
                    kernels.convolve(gradient[index], turned, none, back[index], False)
            found += [torch.from_numpy(d_bias), torch.from_numpy(d_weight)]
            if back is not None:
                gradient = back
        ahead = torch.from_numpy(gradient) if ctx.needs_input_grad[1] else None
        return (None, ahead, *reversed(found))


def chain(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], relu: bool = True) -> Tensor:
    """Run convolutions, each followed by a ReLU or, on demand, not.

    Args:
        x: a padded map.
        weights: of each layer, ``[out, in, 3, 3]``.
        biases: of each layer, ``[out]``.
        relu: whether a ReLU follows each.

    Returns:
        A padded map.
    """
    pairs = [part.contiguous() for pair in zip(weights, biases, strict=True) for part in pair]
    out: Tensor = _Chain.apply(relu, x, *pairs)
    return out


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        maps, g = x.detach().numpy(), gamma.detach().numpy()
        mean, variance = (part.astype(np.float32) for part in kernels.moments(maps))
        inverse = 1 / np.sqrt(variance + np.float32(eps))
        made = np.zeros_like(maps)
        kernels.scale_relu(maps, g * inverse, beta.detach().numpy() - g * inverse * mean, made)
        ctx.given = maps, made, mean, inverse, g
        statistics = torch.from_numpy(mean), torch.from_numpy(variance)
        ctx.mark_non_differentiable(*statistics)
        return torch.from_numpy(made), *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, made, mean, inverse, gamma = ctx.given
        back = np.zeros_like(maps)
        found = kernels.scale_relu_back(maps, made, mean, inverse, gamma, gradients[0].contiguous().numpy(), back)
        return torch.from_numpy(back), torch.from_numpy(found[0]), torch.from_numpy(found[1]), None


def norm_relu(x: Tensor, norm: torch.nn.BatchNorm2d) -> Tensor:
    """Apply batch norm with the batch's own statistics, which ``norm`` keeps a running average of, and a ReLU.

    Args:
        x: a padded map.
        norm: the layer, in training.

    Returns:
        A padded map.
    """
    out: Tensor
    out, mean, variance = _NormRelu.apply(x, norm.weight, norm.bias, norm.eps)
    keep_statistics(norm, mean, variance, x.shape[0] * (x.shape[2] - 2 * PAD) * (x.shape[3] - 2 * PAD))
    return out


def pad(x: Tensor) -> Tensor:
    """Return the padded map of ``[n, c, h, w]``."""
    return F.pad(x, (PAD, PAD, PAD, PAD))


class _WindowSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        x = x[:, :, PAD:-PAD, PAD:-PAD]
        rows = torch.stack([x[:, :, :-1].sum(2), x.sum(2), x[:, :, 1:].sum(2)], 2)
        return torch.stack([rows[..., :-1].sum(3), rows.sum(3), rows[..., 1:].sum(3)], 3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        g = gradients[0]
        n, c, h, _ = ctx.shape
        out = torch.zeros(ctx.shape)
        rows = torch.empty(n, c, h - 2 * PAD, 3)
        rows[:] = g.sum(2)[:, :, None]
        rows[:, :, -1] -= g[:, :, 0]  # the last row is in no window that looks down from above it
        rows[:, :, 0] -= g[:, :, 2]
        inside = out[:, :, PAD:-PAD, PAD:-PAD]
        inside[:] = rows.sum(3)[..., None]
        inside[..., -1] -= rows[..., 0]
        inside[..., 0] -= rows[..., 2]
        return out


def window_sums(x: Tensor) -> Tensor:
    """Sum the nine zero-padded shifts of a padded map over the frame: ``[n, c, 3, 3]``."""
    out: Tensor = _WindowSums.apply(x)
    return out


def _composed(weight: Array) -> Array:
    """Return the one 5x5 kernel, ``[c, 5, 5]``, of 3x3 convolutions to nine maps and the sum of their shifts."""
    out = np.zeros((weight.shape[1], 5, 5), np.float32)
    for tap in range(9):
        row, column = divmod(tap, 3)
        out[:, row : row + 3, column : column + 3] += weight[tap]
    return out


class _Tail(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        maps, weights, biases = (value.detach().contiguous().numpy() for value in (x, weight, bias))
        n, _, h, w = maps.shape
        out = np.empty((n, 1, h - 2 * PAD, w - 2 * PAD), np.float32)
        for index in range(n):
            out[index, 0] = biases[index].sum()
            kernels.project(maps[index], _composed(weights[index]), out[index, 0])
            kernels.mend_border(maps[index], weights[index], biases[index], out[index, 0])
        ctx.given = maps, weights
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        maps, weights = ctx.given
        gradient = gradients[0].contiguous().numpy()
        d_x, d_weight = np.zeros_like(maps), np.zeros_like(weights)
        d_bias = np.repeat(gradient.sum((1, 2, 3))[:, None], 9, 1).astype(np.float32)
        for index in range(len(maps)):
            composed = _composed(weights[index])
            d_composed = np.zeros_like(composed)
            wide = np.pad(gradient[index, 0], 4)
            kernels.project_back(maps[index], composed, wide, d_x[index], d_composed)
            for tap in range(9):
                row, column = divmod(tap, 3)
                d_weight[index, tap] = d_composed[:, row : row + 3, column : column + 3]
            kernels.mend_border_back(
                maps[index], weights[index], gradient[index, 0], d_x[index], d_weight[index], d_bias[index]
            )
        return torch.from_numpy(d_x), torch.from_numpy(d_weight), torch.from_numpy(d_bias)


def tail(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve to nine maps and add their shifts: a 3x3 convolution of a 3x3 convolution, zero padding in between.

    Away from the border that is one 5x5 convolution, which is what runs; the border is mended.

    Args:
        x: a padded map of c channels.
        weight: ``[n, 9, c, 3, 3]``, each frame's own.
        bias: ``[n, 9]``.

    Returns:
        ``[n, 1, h, w]``.
    """
    out: Tensor = _Tail.apply(x, weight, bias)
    return out
