"""Run the pipeline that a configuration describes: live infrared video in, tracked targets out."""

from __future__ import annotations

import sys


def main() -> None:
    """Parse the command line and run."""
    try:
        from engine.asides import speak_json, start_quietly

        start_quietly()
        from engine.one_line import run_command
        from stream.command import run, with_addresses

        if "--log-json" in sys.argv:
            speak_json("run_pipeline")  # what is wrong with the command line, too
        sys.argv[1:] = with_addresses(sys.argv[1:])
        run_command(run)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"error: {error.name} is not installed here; after make setup: .venv/bin/python run_pipeline.py"
        ) from None
    except KeyboardInterrupt:  # while importing; once it runs, the supervisor takes it
        raise SystemExit(130) from None


if __name__ == "__main__":  # workers import this file too; it must cost them nothing
    main()
