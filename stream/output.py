"""Standard output and error on a disk that may fill: a line that cannot be written must not end the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast


class Forgiving:
    """A text file that loses what cannot be written to it.

    Args:
        file: where the text goes.
        pipe: whether that counts for a pipe that nobody reads any more, too; else it raises ``BrokenPipeError``.
    """

    def __init__(self, file: TextIO, pipe: bool) -> None:
        self._file, self._pipe = file, pipe

    def write(self, text: str) -> int:
        with self._forgiven():
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with self._forgiven():
            self._file.flush()

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            if not self._pipe:
                raise
        except OSError:
            pass

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the file has)
        return getattr(self._file, name)


def forgive(stdout: bool) -> None:
    """Make this process's standard error forgiving, and its output if ``stdout``, whose reader's end still ends it."""
    sys.stderr = cast(TextIO, Forgiving(_open(sys.stderr), pipe=True))
    if stdout:
        sys.stdout = cast(TextIO, Forgiving(_open(sys.stdout), pipe=False))


def _open(file: TextIO | None) -> TextIO:
    """Return a file that is there: whoever starts us may have closed it."""
    return file or Path(os.devnull).open("w")
