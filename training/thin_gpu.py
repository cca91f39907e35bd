"""Thin convolutions on a GPU, in Triton: what ``training.thin`` is to a CPU.

cuDNN pads four channels to the width of its tiles and takes ten times as long as the memory it moves. These are 3x3
with zero padding, float32; maps are ``[n, c, h, w]``, contiguous, and not padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from training import thin_gpu_kernels as kernels
from training.norm import keep_statistics

PAD = 0
MERGES = True  # M's ends are matrix products, by fold and neighbours
BLOCK = 512  # pixels a program convolves
PARTS = 64  # programs a frame that share the sum of a gradient
CHUNK = 8192  # values of shifted maps that such a program takes at once: they must fit into shared memory
TAPS = 16  # the nine taps of a pixel as matrix products like them: padded with zeros, aligned


def pad(x: Tensor) -> Tensor:
    """Return the map as it is used here."""
    return x.float().contiguous()


def _blocks(x: Tensor) -> tuple[int, int]:
    return triton.cdiv(x.shape[2] * x.shape[3], BLOCK), x.shape[0]


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False, like: Tensor | None = None
) -> Tensor:
    """Convolve; weights are ``[out, in, 3, 3]`` or a frame's own, ``[n, out, in, 3, 3]``, biases alike."""
    n, ci, h, w = x.shape
    co = weight.shape[-4]
    own = co * ci * 9 if weight.dim() == 5 else 0
    out = torch.empty((n, co, h, w), dtype=torch.float32, device=x.device)
    kernels.convolve[_blocks(x)](
        x, weight, bias if bias is not None else x, like if like is not None else x, out, h, w, own,
        ci, co, triton.next_power_of_2(co), bias is not None, relu, like is not None, BLOCK,
    )  # fmt: skip
    return out


def _turned(weight: Tensor) -> Tensor:
    """Return the weights of the convolution that carries gradients back."""
    return weight.transpose(-4, -3).flip(-1, -2).contiguous()


def _gradients(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of every frame's weights, ``[n, out, in, 3, 3]``, and biases, ``[n, out]``."""
    (n, ci, h, w), co = x.shape, g.shape[1]
    rows, taps = max(16, triton.next_power_of_2(co)), max(16, triton.next_power_of_2(9 * ci))
    partial = torch.empty((n, PARTS, rows, taps), dtype=torch.float32, device=x.device)
    partial_bias = torch.empty((n, PARTS, rows), dtype=torch.float32, device=x.device)
    kernels.weight_gradient[(PARTS, n)](
        x, g, partial, partial_bias, h, w, PARTS, ci, co, rows, taps, max(16, min(128, CHUNK // taps))
    )
    d_weight = partial.sum(1)[:, :co, : 9 * ci].reshape(n, co, ci, 3, 3)
    return d_weight, partial_bias.sum(1)[:, :co]


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, relu: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        maps = [x]
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            maps.append(_convolve(maps[-1], weight, bias, relu))
        ctx.relu = relu
        ctx.save_for_backward(*maps, *parameters[::2])
        return maps[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        layers = len(saved) // 2
        maps, weights = saved[: layers + 1], saved[layers + 1 :]
        g = gradients[0].contiguous()
        if ctx.relu:
            g = torch.where(maps[-1] > 0, g, 0.0)
        found: list[Tensor] = []
        for layer in range(layers - 1, -1, -1):
            d_weight, d_bias = _gradients(maps[layer], g)
            found += [d_bias.sum(0), d_weight.sum(0)]
            if layer or ctx.needs_input_grad[1]:
                g = _convolve(g, _turned(weights[layer]), like=maps[layer] if ctx.relu and layer else None)
        return (None, g if ctx.needs_input_grad[1] else None, *reversed(found))


@torch.compiler.disable
def chain(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], relu: bool = True) -> Tensor:
    """Run convolutions, each followed by a ReLU or, on demand, not; see ``training.thin.chain``."""
    pairs = [part.contiguous() for pair in zip(weights, biases, strict=True) for part in pair]
    out: Tensor = _Chain.apply(relu, x, *pairs)
    return out


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        n, c, h, w = x.shape
        first, second = _sums(x, x, x, back=False)
        exact = first / (n * h * w)
        mean = exact.float()
        variance = (second / (n * h * w) - exact * exact).clamp(min=0).float()
        inverse = (variance + eps).rsqrt()
        scale = gamma * inverse
        made = torch.empty_like(x)
        size = h * w
        grid = (triton.cdiv(size, BLOCK), n * c)
        kernels.scale_relu[grid](x, scale, beta - scale * mean, made, size, c, BLOCK)
        ctx.save_for_backward(x, made, mean, inverse, gamma)
        ctx.mark_non_differentiable(mean, variance)
        return made, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, made, mean, inverse, gamma = ctx.saved_tensors
        g = gradients[0].contiguous()
        n, c, h, w = x.shape
        count = n * h * w
        d_beta, times = (part.float() for part in _sums(x, made, g, back=True))
        d_gamma = (times - mean * d_beta) * inverse
        a = gamma * inverse
        b = -a * inverse * d_gamma / count
        back = torch.empty_like(x)
        grid = (triton.cdiv(h * w, BLOCK), n * c)
        kernels.scale_relu_back[grid](x, made, g, a, b, -b * mean - a * d_beta / count, back, h * w, c, BLOCK)
        return back, d_gamma, d_beta, None


def _sums(x: Tensor, y: Tensor, g: Tensor, back: bool) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    partial = torch.empty((n, c, PARTS, 2), dtype=torch.float32, device=x.device)
    kernels.sums[(PARTS, n * c)](x, y, g, partial, h * w, PARTS, back, BLOCK)
    first, second = partial.double().sum((0, 2)).unbind(1)  # a variance is a small difference of large sums
    return first, second


@torch.compiler.disable
def norm_relu(x: Tensor, norm: torch.nn.BatchNorm2d) -> Tensor:
    """Apply batch norm with the batch's own statistics, and a ReLU; see ``training.thin.norm_relu``."""
    out: Tensor
    out, mean, variance = _NormRelu.apply(x, norm.weight, norm.bias, norm.eps)
    keep_statistics(norm, mean, variance, x.shape[0] * x.shape[2] * x.shape[3])
    return out


class _WindowSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        rows = x.sum(3)
        rows = torch.stack([rows - x[..., -1], rows, rows - x[..., 0]], 3)  # [n, c, h, 3]
        whole = rows.sum(2)
        return torch.stack([whole - rows[:, :, -1], whole, whole - rows[:, :, 0]], 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        g = gradients[0]
        h, w = ctx.shape[2:]
        rows = g.sum(2)[:, :, None].repeat(1, 1, h, 1)
        rows[:, :, -1] -= g[:, :, 0]  # the last row is in no window that looks down from above it
        rows[:, :, 0] -= g[:, :, 2]
        out = rows.sum(3)[..., None].repeat(1, 1, 1, w)
        out[..., -1] -= rows[..., 0]
        out[..., 0] -= rows[..., 2]
        return out


@torch.compiler.disable
def window_sums(x: Tensor) -> Tensor:
    """Sum the nine zero-padded shifts of a map over the frame: ``[n, c, 3, 3]``."""
    out: Tensor = _WindowSums.apply(x)
    return out


class _Fold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, h: int, w: int) -> Tensor:
        ctx.dtype = u.dtype
        return _folded(u, h, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _spread(gradients[0], ctx.dtype), None, None


class _Neighbours(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.shape = x.shape
        return _spread(x, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _folded(gradients[0].contiguous(), *ctx.shape[2:]), None


def _folded(u: Tensor, h: int, w: int) -> Tensor:
    out = torch.empty((len(u), 1, h, w), dtype=torch.float32, device=u.device)
    kernels.fold[_blocks(out)](u, out, h, w, 1, TAPS, TAPS * h * w, BLOCK)
    return out


def _spread(x: Tensor, dtype: torch.dtype) -> Tensor:
    x = x.contiguous()
    n, _, h, w = x.shape
    out = torch.zeros((n, h * w, TAPS), dtype=dtype, device=x.device)
    kernels.spread[_blocks(x)](x, out, h, w, 1, TAPS, TAPS * h * w, BLOCK)
    return out


@torch.compiler.disable
def fold(u: Tensor, height: int, width: int) -> Tensor:
    """Add up the shifted maps of a 3x3 projection's taps: ``out[p] = sum_k u[p + tap_k, k]``, zero outside.

    Args:
        u: ``[n, height * width, TAPS]``, contiguous; the first nine count.
        height: of the frame.
        width: of the frame.

    Returns:
        Float32 ``[n, 1, height, width]``.
    """
    out: Tensor = _Fold.apply(u, height, width)
    return out


@torch.compiler.disable
def neighbours(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return every pixel's neighbours against the taps' order, ``out[p, k] = x[p - tap_k]``, zero outside.

    Args:
        x: ``[n, 1, h, w]``.
        dtype: of the answer.

    Returns:
        ``[n, h * w, TAPS]``, zero beyond the first nine.
    """
    out: Tensor = _Neighbours.apply(x.float(), dtype)
    return out


class _Tail(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        n, _, h, w = x.shape
        u = _convolve(x, weight, bias)
        out = torch.empty((n, 1, h, w), dtype=torch.float32, device=x.device)
        kernels.fold[_blocks(out)](u, out, h, w, h * w, 1, 9 * h * w, BLOCK)
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        g = gradients[0].contiguous()
        n, _, h, w = x.shape
        spread = torch.empty((n, 9, h, w), dtype=torch.float32, device=x.device)
        kernels.spread[_blocks(g)](g, spread, h, w, h * w, 1, 9 * h * w, BLOCK)
        d_weight, d_bias = _gradients(x, spread)
        return _convolve(spread, _turned(weight)), d_weight, d_bias


@torch.compiler.disable
def tail(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve to nine maps and add their shifts; see ``training.thin.tail``."""
    out: Tensor = _Tail.apply(x, weight.contiguous(), bias.contiguous())
    return out
