"""The kernels of ``training.thin_gpu``, in Triton: float32 maps ``[n, c, h, w]``, a program a run of pixels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def convolve(
    x,
    weight,
    bias,
    like,
    out,
    height,
    width,
    own,
    CI: tl.constexpr,
    CO: tl.constexpr,
    CO2: tl.constexpr,
    BIAS: tl.constexpr,
    RELU: tl.constexpr,
    LIKE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """3x3 with zero padding; ``own`` is the stride of the weights from frame to frame, 0 where they share them."""
    frame = tl.program_id(1)
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = pixel // width
    column = pixel - row * width
    co = tl.arange(0, CO2)
    acc = tl.zeros([CO2, BLOCK], tl.float32)
    for ci in range(CI):
        for tap in tl.static_range(9):
            r = row + (tap // 3 - 1)
            c = column + (tap % 3 - 1)
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            value = tl.load(x + (frame * CI + ci) * size + r * width + c, mask=inside, other=0.0)
            w = tl.load(weight + frame * own + (co * CI + ci) * 9 + tap, mask=co < CO, other=0.0)
            acc += w[:, None] * value[None, :]
    if BIAS:
        acc += tl.load(bias + frame * (own // (CI * 9)) + co, mask=co < CO, other=0.0)[:, None]
    if RELU:
        acc = tl.maximum(acc, 0.0)
    at = (frame * CO + co)[:, None] * size + pixel[None, :]
    mask = (co < CO)[:, None] & (pixel < size)[None, :]
    if LIKE:
        acc = tl.where(tl.load(like + at, mask=mask, other=0.0) > 0, acc, 0.0)
    tl.store(out + at, acc, mask=mask)


@triton.jit
def weight_gradient(
    x,
    g,
    partial,
    partial_bias,
    height,
    width,
    parts,
    CI: tl.constexpr,
    CO: tl.constexpr,
    ROWS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A part's share of the gradient of a convolution's weights and biases, ``[n, parts, ROWS, TAPS]``."""
    frame = tl.program_id(1)
    part = tl.program_id(0)
    size = height * width
    k = tl.arange(0, TAPS)
    ci = k // 9
    down = (k % 9) // 3 - 1
    right = k % 3 - 1
    co = tl.arange(0, ROWS)
    acc = tl.zeros([ROWS, TAPS], tl.float32)
    acc_bias = tl.zeros([ROWS], tl.float32)
    for start in range(part * BLOCK, size, parts * BLOCK):
        pixel = start + tl.arange(0, BLOCK)
        row = pixel // width
        column = pixel - row * width
        r = row[:, None] + down[None, :]
        c = column[:, None] + right[None, :]
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width) & (k < CI * 9)[None, :] & (pixel < size)[:, None]
        values = tl.load(x + (frame * CI + ci)[None, :] * size + r * width + c, mask=inside, other=0.0)
        mask = (co < CO)[:, None] & (pixel < size)[None, :]
        grads = tl.load(g + (frame * CO + co)[:, None] * size + pixel[None, :], mask=mask, other=0.0)
        acc = tl.dot(grads, values, acc)
        acc_bias += tl.sum(grads, 1)
    place = (frame * parts + part) * ROWS + co
    tl.store(partial + place[:, None] * TAPS + k[None, :], acc)
    tl.store(partial_bias + place, acc_bias)


@triton.jit
def fold(u, out, height, width, by_tap, by_pixel, by_frame, BLOCK: tl.constexpr):
    """Add up nine maps, each shifted by its tap: ``out[p] = sum_k u[k, p + tap_k]``, zero outside."""
    frame = tl.program_id(1)
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = pixel // width
    column = pixel - row * width
    acc = tl.zeros([BLOCK], tl.float32)
    for tap in tl.static_range(9):
        r = row + (tap // 3 - 1)
        c = column + (tap % 3 - 1)
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        value = tl.load(u + frame * by_frame + tap * by_tap + (r * width + c) * by_pixel, mask=inside, other=0.0)
        acc += value.to(tl.float32)
    tl.store(out + frame * size + pixel, acc, mask=pixel < size)


@triton.jit
def spread(g, out, height, width, by_tap, by_pixel, by_frame, BLOCK: tl.constexpr):
    """What ``fold`` does, backwards: ``out[k, p] = g[p - tap_k]``, zero outside."""
    frame = tl.program_id(1)
    size = height * width
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = pixel // width
    column = pixel - row * width
    for tap in tl.static_range(9):
        r = row - (tap // 3 - 1)
        c = column - (tap % 3 - 1)
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        value = tl.load(g + frame * size + r * width + c, mask=inside, other=0.0)
        at = out + frame * by_frame + tap * by_tap + pixel * by_pixel
        tl.store(at, value.to(out.dtype.element_ty), mask=pixel < size)


@triton.jit
def sums(x, y, g, partial, size, parts, BACK: tl.constexpr, BLOCK: tl.constexpr):
    """A part's sums of a map: of x and its square, or, backwards, of the gradient where y > 0 and of that times x."""
    map_ = tl.program_id(1)
    part = tl.program_id(0)
    first = tl.zeros([BLOCK], tl.float32)
    second = tl.zeros([BLOCK], tl.float32)
    for start in range(part * BLOCK, size, parts * BLOCK):
        pixel = start + tl.arange(0, BLOCK)
        mask = pixel < size
        value = tl.load(x + map_ * size + pixel, mask=mask, other=0.0)
        if BACK:
            made = tl.load(y + map_ * size + pixel, mask=mask, other=0.0)
            grad = tl.load(g + map_ * size + pixel, mask=mask, other=0.0)
            grad = tl.where(made > 0, grad, 0.0)
            first += grad
            second += grad * value
        else:
            first += value
            second += value * value
    tl.store(partial + (map_ * parts + part) * 2, tl.sum(first, 0))
    tl.store(partial + (map_ * parts + part) * 2 + 1, tl.sum(second, 0))


@triton.jit
def scale_relu(x, scale, shift, out, size, C: tl.constexpr, BLOCK: tl.constexpr):
    """``max(scale x + shift, 0)``, a scale and a shift a channel."""
    map_ = tl.program_id(1)
    channel = map_ % C
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + map_ * size + pixel, mask=pixel < size, other=0.0)
    made = tl.maximum(value * tl.load(scale + channel) + tl.load(shift + channel), 0.0)
    tl.store(out + map_ * size + pixel, made, mask=pixel < size)


@triton.jit
def scale_relu_back(x, y, g, a, b, c, out, size, C: tl.constexpr, BLOCK: tl.constexpr):
    """``a g + b x + c`` with g where y > 0 and else 0; a, b and c are of the channel."""
    map_ = tl.program_id(1)
    channel = map_ % C
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < size
    at = map_ * size + pixel
    grad = tl.load(g + at, mask=mask, other=0.0)
    grad = tl.where(tl.load(y + at, mask=mask, other=0.0) > 0, grad, 0.0)
    value = tl.load(x + at, mask=mask, other=0.0)
    found = tl.load(a + channel) * grad + tl.load(b + channel) * value + tl.load(c + channel)
    tl.store(out + at, found, mask=mask)
