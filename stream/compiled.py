"""Compiling the kernels of the real-time path: once a machine, kept beside their source or in the user's cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def compiled(kernel: Kernel) -> Kernel:
    """Return a function that Numba compiles at its first call, and keeps the code of where it may write."""
    from numba import njit  # here, for it takes a while

    try:
        return cast(Kernel, njit(nogil=True, cache=True)(kernel))
    except RuntimeError:  # neither here nor in the user's cache: it is compiled every time
        return cast(Kernel, njit(nogil=True)(kernel))


def is_kept(kernel: str) -> bool:
    """Tell whether a kernel's code lies beside its source, ``module.function`` of this package."""
    return any((Path(__file__).parent / "__pycache__").glob(f"{kernel}-*.nbi"))
