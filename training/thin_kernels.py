"""The compiled kernels of training.thin: one thread, float32, padded maps."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

PAD = 2
ROWS = 8  # of four gradients and one input: some 40 kB at 256 columns, which a core's first cache holds
Array = NDArray[np.float32]

# Numba's decorators are untyped for mypy. Work goes row by row, four output channels at a time: a row's inputs are
# read once for twelve multiply-adds, and the compiler makes vectors of the loop over columns.
compiled = njit(fastmath=True, nogil=True, cache=True)


@compiled
def convolve(x: Array, weight: Array, bias: Array, y: Array, relu: bool) -> None:
    """Compute y = conv3x3(x) + bias, padded maps ``[c, h + 4, w + 4]``; y's border is set to zero."""
    outputs, inputs = weight.shape[:2]
    h, w = x.shape[1] - 2 * PAD, x.shape[2] - 2 * PAD
    rows = np.empty((4, w), np.float32)
    y[:, :PAD] = 0
    y[:, h + PAD :] = 0
    for o in range(0, outputs, 4):
        r0, r1, r2, r3 = rows[0], rows[1], rows[2], rows[3]
        wide = min(4, outputs - o)
        for row in range(h):
            for j in range(wide):
                rows[j] = bias[o + j]
            for i in range(inputs):
                for k in range(3):
                    line = x[i, row + k + 1]
                    if wide == 4:
                        a0, a1, a2 = weight[o, i, k, 0], weight[o, i, k, 1], weight[o, i, k, 2]
                        b0, b1, b2 = weight[o + 1, i, k, 0], weight[o + 1, i, k, 1], weight[o + 1, i, k, 2]
                        c0, c1, c2 = weight[o + 2, i, k, 0], weight[o + 2, i, k, 1], weight[o + 2, i, k, 2]
                        d0, d1, d2 = weight[o + 3, i, k, 0], weight[o + 3, i, k, 1], weight[o + 3, i, k, 2]
                        for c in range(w):
                            p, q, s = line[c + 1], line[c + 2], line[c + 3]
                            r0[c] += a0 * p + a1 * q + a2 * s
                            r1[c] += b0 * p + b1 * q + b2 * s
                            r2[c] += c0 * p + c1 * q + c2 * s
                            r3[c] += d0 * p + d1 * q + d2 * s
                    else:
                        for j in range(wide):
                            r = rows[j]
                            a0, a1, a2 = weight[o + j, i, k, 0], weight[o + j, i, k, 1], weight[o + j, i, k, 2]
                            for c in range(w):
                                r[c] += a0 * line[c + 1] + a1 * line[c + 2] + a2 * line[c + 3]
            for j in range(wide):
                r, line = rows[j], y[o + j, row + PAD]
                line[:PAD] = 0
                line[w + PAD :] = 0
                if relu:
                    for c in range(w):
                        line[c + PAD] = max(r[c], np.float32(0))
                else:
                    for c in range(w):
                        line[c + PAD] = r[c]


@compiled
def mask(gradient: Array, y: Array) -> None:
    """Stop the gradient where the ReLU that made y did not fire, in place."""
    for c in range(y.shape[0]):
        for row in range(y.shape[1]):
            g, r = gradient[c, row], y[c, row]
            for i in range(r.shape[0]):
                g[i] = g[i] if r[i] > 0 else np.float32(0)


@compiled
def weight_gradient(x: Array, gradient: Array, weight: Array, bias: Array) -> None:
    """Add to the gradients of weight and bias what padded ``x`` and ``gradient`` of the output say.

    Some rows are one line here, with the zeros of the gradient's border in between: long sums end seldom.
    """
    outputs, inputs = weight.shape[:2]
    h, stride = x.shape[1] - 2 * PAD, x.shape[2]
    zero = np.float32(0)
    xs, gs = x.reshape(inputs, -1), gradient.reshape(outputs, -1)
    for row in range(0, h, ROWS):
        count = min(ROWS, h - row) * stride - PAD  # the last two are the border's
        at = (row + PAD) * stride
        for o in range(0, outputs, 4):
            wide = min(4, outputs - o)
            for j in range(wide):
                g, total = gs[o + j, at : at + count], zero
                for c in range(count):
                    total += g[c]
                bias[o + j] += total
            for i in range(inputs):
                for k in range(3):
                    line = xs[i, at + (k - 1) * stride - 1 :]
                    if wide == 4:
                        g0, g1, g2, g3 = gs[o, at:], gs[o + 1, at:], gs[o + 2, at:], gs[o + 3, at:]
                        a0, a1, a2, b0, b1, b2 = zero, zero, zero, zero, zero, zero
                        c0, c1, c2, d0, d1, d2 = zero, zero, zero, zero, zero, zero
                        for c in range(count):
                            p, q, s = line[c], line[c + 1], line[c + 2]
                            t, u, v, z = g0[c], g1[c], g2[c], g3[c]
                            a0 += t * p
                            a1 += t * q
                            a2 += t * s
                            b0 += u * p
                            b1 += u * q
                            b2 += u * s
                            c0 += v * p
                            c1 += v * q
                            c2 += v * s
                            d0 += z * p
                            d1 += z * q
                            d2 += z * s
                        weight[o, i, k, 0] += a0
                        weight[o, i, k, 1] += a1
                        weight[o, i, k, 2] += a2
                        weight[o + 1, i, k, 0] += b0
                        weight[o + 1, i, k, 1] += b1
                        weight[o + 1, i, k, 2] += b2
                        weight[o + 2, i, k, 0] += c0
                        weight[o + 2, i, k, 1] += c1
                        weight[o + 2, i, k, 2] += c2
                        weight[o + 3, i, k, 0] += d0
                        weight[o + 3, i, k, 1] += d1
                        weight[o + 3, i, k, 2] += d2
                    else:
                        for j in range(wide):
                            g0 = gs[o + j, at:]
                            a0, a1, a2 = zero, zero, zero
                            for c in range(count):
                                a0 += g0[c] * line[c]
                                a1 += g0[c] * line[c + 1]
                                a2 += g0[c] * line[c + 2]
                            weight[o + j, i, k, 0] += a0
                            weight[o + j, i, k, 1] += a1
                            weight[o + j, i, k, 2] += a2


@compiled
def moments(x: Array) -> NDArray[np.float64]:
    """Return the mean and the variance of each channel of padded maps ``[n, c, h + 4, w + 4]``: ``[2, c]``."""
    n, channels, h, w = x.shape
    found = np.zeros((2, channels))
    count = n * (h - 2 * PAD) * (w - 2 * PAD)
    for c in range(channels):
        for index in range(n):
            for row in range(PAD, h - PAD):
                line, total = x[index, c, row], np.float32(0)
                for k in range(PAD, w - PAD):
                    total += line[k]
                found[0, c] += total
        mean = found[0, c] = found[0, c] / count
        middle = np.float32(mean)
        for index in range(n):
            for row in range(PAD, h - PAD):
                line, total = x[index, c, row], np.float32(0)
                for k in range(PAD, w - PAD):
                    total += (line[k] - middle) * (line[k] - middle)
                found[1, c] += total
        found[1, c] /= count
    return found


@compiled
def scale_relu(x: Array, scale: Array, shift: Array, y: Array) -> None:
    """Compute y = relu(scale x + shift), padded maps ``[n, c, h + 4, w + 4]``."""
    n, channels, h, w = x.shape
    for index in range(n):
        for c in range(channels):
            for row in range(PAD, h - PAD):
                a, b = x[index, c, row], y[index, c, row]
                for k in range(PAD, w - PAD):
                    b[k] = max(scale[c] * a[k] + shift[c], np.float32(0))


@compiled
def scale_relu_back(
    x: Array, y: Array, mean: Array, inverse: Array, gamma: Array, gradient: Array, d_x: Array
) -> Array:
    """Fill d_x; return the gradients of gamma and beta, ``[2, c]``."""
    n, channels, h, w = x.shape
    found = np.zeros((2, channels), np.float32)
    count = np.float32(n * (h - 2 * PAD) * (w - 2 * PAD))
    for c in range(channels):
        for index in range(n):
            for row in range(PAD, h - PAD):
                a, b, g = x[index, c, row], y[index, c, row], gradient[index, c, row]
                first, second = np.float32(0), np.float32(0)
                for k in range(PAD, w - PAD):
                    passed = g[k] if b[k] > 0 else np.float32(0)
                    first += passed * (a[k] - mean[c])
                    second += passed
                found[0, c] += first * inverse[c]
                found[1, c] += second
        by_gamma, by_beta = found[0, c] / count, found[1, c] / count
        for index in range(n):
            for row in range(PAD, h - PAD):
                a, b, g = x[index, c, row], y[index, c, row], gradient[index, c, row]
                d = d_x[index, c, row]
                for k in range(PAD, w - PAD):
                    passed = g[k] if b[k] > 0 else np.float32(0)
                    d[k] = gamma[c] * inverse[c] * (passed - by_beta - (a[k] - mean[c]) * inverse[c] * by_gamma)
    return found


@compiled
def project(x: Array, weight: Array, y: Array) -> None:
    """Add to y: conv5x5(x), a padded map ``[c, h + 4, w + 4]`` to ``[h, w]``; weight is ``[c, 5, 5]``."""
    h, w = y.shape
    for row in range(h + 2 * PAD):
        first, last = max(0, row - 4), min(h, row + 1)
        for i in range(len(weight)):
            line = x[i, row]
            for out in range(first, last):
                taps, r = weight[i, row - out], y[out]
                a, b, c, d, e = taps[0], taps[1], taps[2], taps[3], taps[4]
                for k in range(w):
                    r[k] += a * line[k] + b * line[k + 1] + c * line[k + 2] + d * line[k + 3] + e * line[k + 4]


@compiled
def project_back(x: Array, weight: Array, gradient: Array, d_x: Array, d_weight: Array) -> None:
    """Fill d_x (padded) and add to d_weight; ``gradient`` is padded by 4, ``[h + 8, w + 8]``."""
    h, w = x.shape[1] - 2 * PAD, x.shape[2] - 2 * PAD
    zero = np.float32(0)
    for i in range(len(weight)):
        for row in range(h):
            r = d_x[i, row + PAD]
            r[:] = 0
            for k in range(5):
                taps, g = weight[i, 4 - k], gradient[row + k + 2]
                a, b, c, d, e = taps[4], taps[3], taps[2], taps[1], taps[0]
                for q in range(w):
                    r[q + 2] += a * g[q + 2] + b * g[q + 3] + c * g[q + 4] + d * g[q + 5] + e * g[q + 6]
            g = gradient[row + 4]
            for k in range(5):
                line = x[i, row + k]
                a, b, c, d, e = zero, zero, zero, zero, zero
                for q in range(w):
                    t = g[q + 4]
                    a += t * line[q]
                    b += t * line[q + 1]
                    c += t * line[q + 2]
                    d += t * line[q + 3]
                    e += t * line[q + 4]
                d_weight[i, k, 0] += a
                d_weight[i, k, 1] += b
                d_weight[i, k, 2] += c
                d_weight[i, k, 3] += d
                d_weight[i, k, 4] += e


@compiled
def ring(h: int, w: int) -> NDArray[np.int64]:
    """Return the positions of the one-pixel ring around a frame, ``[2 h + 2 w + 4, 2]``."""
    found = np.empty((2 * h + 2 * w + 4, 2), np.int64)
    at = 0
    for row in range(-1, h + 1):
        step = 1 if row in (-1, h) else w + 1
        for column in range(-1, w + 1, step):
            found[at] = row, column
            at += 1
    return found


@compiled
def mend_border(x: Array, weight: Array, bias: Array, y: Array) -> None:
    """Take from y what the c-channel map would have had outside the frame, where its padding is zero."""
    h, w = y.shape
    for row, column in ring(h, w):
        for out_row in range(max(0, row - 1), min(h, row + 2)):
            for out_column in range(max(0, column - 1), min(w, column + 2)):
                tap = 3 * (row - out_row + 1) + column - out_column + 1
                y[out_row, out_column] -= bias[tap]
                for i in range(len(x)):
                    for k in range(3):
                        for j in range(3):
                            value = x[i, row + k - 1 + PAD, column + j - 1 + PAD]
                            y[out_row, out_column] -= weight[tap, i, k, j] * value


@compiled
def mend_border_back(x: Array, weight: Array, gradient: Array, d_x: Array, d_weight: Array, d_bias: Array) -> None:
    """The gradients of what ``mend_border`` took; ``gradient`` is ``[h, w]``."""
    h, w = gradient.shape
    for row, column in ring(h, w):
        for out_row in range(max(0, row - 1), min(h, row + 2)):
            for out_column in range(max(0, column - 1), min(w, column + 2)):
                tap = 3 * (row - out_row + 1) + column - out_column + 1
                g = gradient[out_row, out_column]
                d_bias[tap] -= g
                for i in range(len(x)):
                    for k in range(max(0, 1 - row), min(3, h + 1 - row)):
                        for j in range(max(0, 1 - column), min(3, w + 1 - column)):
                            at_row, at_column = row + k - 1 + PAD, column + j - 1 + PAD
                            d_weight[tap, i, k, j] -= g * x[i, at_row, at_column]
                            d_x[i, at_row, at_column] -= g * weight[tap, i, k, j]
