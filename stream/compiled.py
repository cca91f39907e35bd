"""Compiling the kernels of the real-time path: once a machine, kept beside their source or in the user's cache."""

from __future__ import annotations

import os
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
    """Tell whether the code of a kernel, ``module.function`` of this package, is kept already.

    Where we may not write beside the source it is kept in the user's cache, if anywhere; then it is taken to be there.
    """
    here = Path(__file__).parent
    return any((here / "__pycache__").glob(f"{kernel}-*.nbi")) or not os.access(here, os.W_OK)
