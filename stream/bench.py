"""Load the real pipeline and time it: ``python -m stream.bench --streams 8 --size 320x256 --engine null``."""

from __future__ import annotations


def main() -> None:
    """Parse the command line and run."""
    import typer

    from stream.bench_run import bench

    typer.run(bench)


if __name__ == "__main__":  # workers import this file too; it must cost them nothing
    main()
