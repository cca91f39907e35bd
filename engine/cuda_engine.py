"""The network as one: CUDA kernels written for it, compiled for the GPU that is there."""

from pathlib import Path

SOURCES = ("warp.cuh", "maps.cuh", "attention.cuh", "chain.cuh", "merge.cuh")


def source_of() -> str:
    """Return the kernels' source."""
    folder = Path(__file__).parent / "kernels"
    return "\n".join((folder / name).read_text() for name in SOURCES)
