"""Frames in, tracks out. Imports engine; imports no torch."""

import os
import sys

# OpenCV reads this once, when it is first imported: an image whose header claims more is refused unread.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(8192 * 8192))

if sys.argv[:1] == ["-m"]:  # so it is while a command of ours is being found
    from engine.asides import start_quietly

    start_quietly()


class StreamError(RuntimeError):
    """Something the user can mend; the message is one line that names the file, field or camera.

    What it quotes may come from anywhere: characters that would end the line or that a terminal obeys are written out.
    """

    def __init__(self, said: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in said))
