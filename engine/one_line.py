"""How commands say what went wrong: one line on standard error, and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class OutputError(RuntimeError):
    """A file that could not be written; the message names the option and the path."""


@contextmanager
def one_line_errors(*known: type[Exception], code: int = 2) -> Iterator[None]:
    """Turn what a user can mend into ``error: ...`` on standard error and an exit; a decorator of commands, too.

    Args:
        known: errors whose message is one line that says it all; those of files are always among them.
        code: what to exit with.
    """
    mended: tuple[type[Exception], ...] = (OutputError, *known)
    try:
        yield
    except mended as error:
        said = str(error)
    except BrokenPipeError:  # nobody reads any more; typer ends without a word
        raise
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    else:
        return
    print(f"error: {said}", file=sys.stderr)
    raise SystemExit(code)


def check_output(option: str, path: str | Path | None, suffix: str = "") -> None:
    """Refuse, before minutes of work, a file that could not be written after them.

    Args:
        option: what the path was given with.
        path: of the file; None and ``-``, standard output, are fine.
        suffix: what its name must end in.

    Raises:
        OutputError: naming the option and what is wrong.
    """
    if path is None or str(path) == "-":
        return
    file = Path(path)
    if not file.absolute().parent.is_dir():
        raise OutputError(f"{option} {path}: its folder does not exist")
    if file.is_dir():
        raise OutputError(f"{option} {path}: a folder; a file to write is expected")
    if file.suffix != suffix and suffix:
        raise OutputError(f"{option} {path}: a name that ends in {suffix} is expected")
    if not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise OutputError(f"{option} {path}: it may not be written")


def check_output_folder(option: str, path: Path | None) -> None:
    """Refuse a folder that could not be made or written to; see ``check_output``."""
    if path is None:
        return
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise OutputError(f"{option} {path}: {there} is a file; a folder is expected")
    if not os.access(there, os.W_OK):
        raise OutputError(f"{option} {path}: {there} may not be written")
