"""Compiling the kernels of the real-time path: once a machine, kept beside their source or in the user's cache.

``python -m stream.compiled`` does it ahead of the first run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def compiled(kernel: Kernel) -> Kernel:
    """Return a function that Numba compiles at its first call, and keeps the code of where it may write."""
    from numba import njit  # here, for it takes a while

    try:
        made: Any = njit(nogil=True, cache=True)(kernel)
    except RuntimeError:  # neither here nor in the user's cache: it is compiled every time
        return cast(Kernel, njit(nogil=True)(kernel))
    _forgive(made._cache)
    return cast(Kernel, made)


def _forgive(cache: Any) -> None:  # noqa: ANN401 (Numba's own)
    """Let a cache that cannot be read or written cost time alone: a power cut leaves empty files, a disk fills."""
    load, save = cache.load_overload, cache.save_overload

    def load_if_whole(*wanted: object) -> object:
        try:
            return load(*wanted)
        except Exception:
            with contextlib.suppress(OSError):
                cache.flush()  # what is there is not to be believed; the next save begins anew
            return None

    def save_if_possible(*made: object) -> None:
        with contextlib.suppress(OSError):
            save(*made)

    cache.load_overload, cache.save_overload = load_if_whole, save_if_possible


if __name__ == "__main__":
    from stream.detect import DetectConfig
    from stream.track import TrackConfig
    from stream.workers.track import warm_up

    warm_up(DetectConfig(), TrackConfig())
