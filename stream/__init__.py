"""Frames in, tracks out. Imports engine; imports no torch."""


class StreamError(RuntimeError):
    """Something the user can mend; the message is one line that names the file, field or camera."""
