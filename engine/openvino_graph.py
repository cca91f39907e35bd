"""Rewrite a model for one frame of a fixed size on a CPU: the same numbers, but for rounding, in less time.

A contract model takes any batch and size, and its convolutions have too few channels for a CPU:

- A convolution to 4 channels leaves half of 8 vector lanes empty. Two neighbouring pixels are computed as 8
  channels, by a convolution of stride 2; in memory, its answer is the 4-channel map. With AVX-512, four are as 16.
- The end of a chain is linear: expand (b -> c), scale each of the c maps by its attention, project (c -> 1).
  For one frame these three are one 5x5 convolution b -> 1 whose weights depend on the attention, and the
  attention needs of the c maps only their means, which are those of the thin maps less their borders. So the
  c maps, most of the memory traffic, are never made. At the frame's rim the 5x5 convolution would reach
  expanded maps outside of the frame, which are zero: the rim is computed apart.

What is not built as ``training.export`` builds it is left as it is.

With bf16, the wide convolutions' types say so in the graph itself: OpenVINO, told to infer in f32, leaves them as they
are and computes everything else in f32. Told to infer in bf16, 2026.4 computes all that it can in bf16, marked or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as ops
from numpy.typing import NDArray

from engine.parts import Array, Head, Thin, Wide

LANES = 16 if "avx512f" in Path("/proc/cpuinfo").read_text().split() else 8  # float32s in this processor's vectors
_Output = Any  # openvino.Output; the package has no types


def rewrite(model: openvino.Model, parts: Sequence[Thin | Wide | Head]) -> None:
    """Rewrite a model, in place.

    Args:
        model: read from the ONNX file that the parts were found in, and reshaped to one frame.
        parts: what ``find_parts`` found and, to be computed in bf16, what ``find_wide`` found.
    """
    tensors = {name: output for node in model.get_ordered_ops() for output in node.outputs() for name in output.names}
    for part in parts:
        source = tensors[part.source]
        made = _REWRITES[type(part)](part, source)
        if made is not None:
            for reader in list(tensors[part.target].get_target_inputs()):
                reader.replace_source_output(made)
            tensors[part.target] = made
    model.validate_nodes_and_infer_types()


def _thin(part: Thin, x: _Output) -> _Output | None:
    """Return the maps of a thin convolution; several pixels of a row are computed as channels."""
    _, _, h, w = x.shape
    out, _, side, _ = part.weight.shape
    across = max(n for n in (1, 2, 4, 8) if n * out <= LANES and w % n == 0)
    if across == 1:
        return None
    r = side // 2
    made = _conv(x, _constant(_spread(part.weight, 1, across)), (r, r, r, r), (1, across))
    made = ops.add(made, _constant(np.tile(part.bias, across).reshape(1, -1, 1, 1)))
    if part.relu:
        made = ops.relu(made)
    return _view(made, out, h, w).output(0)


def _wide(part: Wide, x: _Output) -> _Output:
    """Return the maps of a wide convolution, computed in bf16; the next one reads them as they are."""
    maker = x.get_node()
    if maker.get_type_name() == "Convert" and maker.input_value(0).get_element_type() == openvino.Type.bf16:
        x = maker.input_value(0)
    else:
        x = ops.convert(x, "bf16")
    r = part.weight.shape[2] // 2
    made = _conv(x, ops.convert(_constant(part.weight), "bf16"), (r, r, r, r))
    made.set_friendly_name(part.name)
    made = ops.add(made, ops.convert(_constant(part.bias.reshape(1, -1, 1, 1)), "bf16"))
    if part.relu:
        made = ops.relu(made)
    return ops.convert(made, "f32").output(0)


def _project(head: Head, x: _Output) -> _Output | None:
    """Return the map that a head makes."""
    _, _, h, w = x.shape
    if head.expand is None:
        scale = _attention(head, ops.reshape(ops.reduce_mean(x, _ints(2, 3), True), _ints(1, -1), False))
        spread = _constant(_spread(head.project[None], *_tile(w)))
        weight = ops.multiply(spread, ops.reshape(scale, _ints(1, -1, 1, 1), False))
        return ops.add(_to_map(x, weight, 3), _constant(head.bias.reshape(1, 1, 1, 1))).output(0)
    if min(h, w) < 3:
        return None
    expand, expand_bias = head.expand
    scale = _attention(head, _mean_expanded(x, expand, expand_bias))
    # Of each of the c attentions: weights and biases of the nine taps' maps, and of the one 5x5 convolution.
    taps = np.einsum("ck,cbij->ckbij", head.project.reshape(-1, 9), expand)
    biases = np.einsum("ck,c->ck", head.project.reshape(-1, 9), expand_bias)
    whole = np.zeros((len(taps), 1, taps.shape[2], 5, 5))
    for tap in range(9):
        whole[..., tap // 3 : tap // 3 + 3, tap % 3 : tap % 3 + 3] += taps[:, None, tap]
    inner = _to_map(x, _mix(scale, np.stack([_spread(weight, *_tile(w)) for weight in whole])), 5)
    inner_bias = _mix(scale, biases.sum(1).reshape(-1, 1, 1, 1, 1))
    weight, bias = _mix(scale, taps), _mix(scale, biases.reshape(-1, 1, 9, 1, 1))
    shifts = _constant(np.eye(9).reshape(1, 9, 3, 3))

    def rim(strip: _Output, pads: tuple[int, int, int, int]) -> _Output:
        return ops.subtract(_conv(ops.add(_conv(strip, weight, pads), bias), shifts, pads), inner_bias)

    top, bottom = rim(_slice(x, 2, 0, 3), (1, 1, 0, 1)), rim(_slice(x, 2, h - 3, h), (0, 1, 1, 1))
    left = _slice(rim(_slice(x, 3, 0, 3), (1, 1, 1, 0)), 2, 1, h - 1)
    right = _slice(rim(_slice(x, 3, w - 3, w), (1, 0, 1, 1)), 2, 1, h - 1)
    middle = _slice(_slice(inner, 2, 1, h - 1), 3, 1, w - 1)
    made = ops.concat([top, ops.concat([left, middle, right], 3), bottom], 2)
    # The biases come last, where adding them is part of whatever elementwise step follows.
    return ops.add(made, ops.add(inner_bias, _constant(head.bias.reshape(1, 1, 1, 1)))).output(0)


_REWRITES: dict[type, Callable[..., _Output | None]] = {Thin: _thin, Wide: _wide, Head: _project}


def _attention(head: Head, mean: _Output) -> _Output:
    """Return the scales ``[1, c]`` of maps from their means ``[1, c]``."""
    squeezed = ops.relu(ops.add(_product(mean, head.squeeze[0]), _constant(head.squeeze[1][None])))
    return ops.sigmoid(ops.add(_product(squeezed, head.excite[0]), _constant(head.excite[1][None])))


def _mean_expanded(x: _Output, expand: Array, bias: Array) -> _Output:
    """Return the means ``[1, c]`` of the expanded maps from the thin ones.

    A tap of the convolution sees the whole map but the row and the column that it moves out of the frame.
    """
    _, b, h, w = x.shape
    rows = {0: _slice(x, 2, h - 1, h), 2: _slice(x, 2, 0, 1)}
    columns = {0: _slice(x, 3, w - 1, w), 2: _slice(x, 3, 0, 1)}
    corners = {
        (i, j): _slice(row, 3, w - 1, w) if j == 0 else _slice(row, 3, 0, 1) for i, row in rows.items() for j in (0, 2)
    }
    sides = [*rows.values(), *columns.values(), *corners.values()]
    parts = [ops.reduce_mean(part, _ints(2, 3), True) for part in (x, *sides)]
    share = np.zeros((9, b, len(expand)))  # of each part's mean in each expanded map's
    share[0] = expand.sum((2, 3)).T
    for k, i in enumerate(rows):
        share[1 + k] = -expand[:, :, i].sum(2).T / h
    for k, j in enumerate(columns):
        share[3 + k] = -expand[:, :, :, j].sum(2).T / w
    for k, (i, j) in enumerate(corners):
        share[5 + k] = expand[:, :, i, j].T / (h * w)
    means = ops.reshape(ops.concat(parts, 1), _ints(1, -1), False)
    return ops.add(_product(means, share.reshape(-1, len(expand))), _constant(bias[None]))


def _tile(w: int) -> tuple[int, int]:
    """Return the rows and columns of pixels that a projection computes as channels; the columns divide ``w``."""
    return (LANES // 2, 2) if w % 2 == 0 else (LANES, 1)


def _to_map(x: _Output, weight: _Output, side: int) -> _Output:
    """Return the map of a convolution to one channel whose weights are spread by ``_tile``."""
    _, _, h, w = x.shape
    down, across = _tile(w)
    r = side // 2
    made = _conv(x, weight, (r, r, r + -h % down, r), (down, across))  # [1, down * across, h / down, w / across]
    split = ops.reshape(ops.transpose(made, _ints(0, 2, 3, 1)), _ints(-(-h // down), w // across, down, across), False)
    rows = ops.reshape(ops.transpose(split, _ints(0, 2, 1, 3)), _ints(1, 1, -1, w), False)
    return rows if h % down == 0 else _slice(rows, 2, 0, h)


def _spread(weight: Array, down: int, across: int) -> Array:
    """Return the weights that compute ``down`` x ``across`` pixels as channels, with a stride of as much.

    Args:
        weight: ``[out, in, k, k]``.
        down: rows.
        across: columns.

    Returns:
        ``[down * across * out, in, k + down - 1, k + across - 1]``.
    """
    out, inputs, side, _ = weight.shape
    spread = np.zeros((down, across, out, inputs, side + down - 1, side + across - 1), np.float32)
    for i in range(down):
        for j in range(across):
            spread[i, j, :, :, i : i + side, j : j + side] = weight
    return spread.reshape(-1, *spread.shape[3:])


def _view(x: _Output, channels: int, h: int, w: int) -> _Output:
    """Return pixels that were computed as channels as pixels: channels come last in memory, so nothing moves."""
    last = ops.reshape(ops.transpose(x, _ints(0, 2, 3, 1)), _ints(1, h, w, channels), False)
    return ops.transpose(last, _ints(0, 3, 1, 2))


def _mix(scale: _Output, basis: Array) -> _Output:
    """Return the sum of a basis ``[c, ...]`` weighed by the scales ``[1, c]``."""
    return ops.reshape(_product(scale, basis.reshape(len(basis), -1)), _ints(*basis.shape[1:]), False)


def _product(x: _Output, matrix: Array) -> _Output:
    return ops.matmul(x, _constant(matrix), False, False)


def _conv(x: _Output, weight: _Output, pads: tuple[int, int, int, int], strides: tuple[int, int] = (1, 1)) -> _Output:
    """Return a convolution with ``pads`` above, left, below and right."""
    return ops.convolution(x, weight, list(strides), list(pads[:2]), list(pads[2:]), [1, 1])


def _slice(x: _Output, axis: int, start: int, stop: int) -> _Output:
    return ops.slice(x, _ints(start), _ints(stop), _ints(1), _ints(axis))


def _constant(values: NDArray[Any]) -> _Output:
    return ops.constant(np.ascontiguousarray(values, np.float32))


def _ints(*values: int) -> _Output:
    return ops.constant(np.array(values, np.int64))
