"""Load the real pipeline and time it: ``python -m stream.bench --streams 8 --size 320x256 --engine null``."""

from __future__ import annotations


def main() -> None:
    """Parse the command line and run."""
    from engine.one_line import run_command
    from stream.bench_run import bench

    run_command(bench)


if __name__ == "__main__":  # workers import this file too; it must cost them nothing
    main()
