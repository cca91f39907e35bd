"""Frames in, tracks out. Imports engine; imports no torch."""

import os

# OpenCV reads this once, when it is first imported: an image whose header claims more is refused unread.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(8192 * 8192))


class StreamError(RuntimeError):
    """Something the user can mend; the message is one line that names the file, field or camera."""
