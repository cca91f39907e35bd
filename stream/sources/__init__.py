"""Frames from files, folders, recordings, cameras and a built-in scene; ``open_source`` tells them apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from stream.sources.base import Source, SourceError

if TYPE_CHECKING:
    from stream.sources.scene import SceneConfig

ACCEPTED = (
    "a video file, a folder of images, a camera as rtsp://host/path, udp://host:port, srt://host:port or "
    "http://host/path, gige:name or v4l2:/dev/video0, recording:folder/stream, "
    "or scene:?seed=1&width=320&height=256&bits=8&fps=30"
)
NETWORK = ("rtsp", "rtsps", "srt", "udp", "rtp", "http", "https")
CAMERAS = ("gige", "u3v")
DEVICES = ("v4l2",)
IMAGES_FPS = 30.0
"""The rate of a folder of images, which states none itself."""
MAX_SIDE = 8192
"""The widest and highest frame that is accepted, pixels: a hostile header shall not claim the memory."""
BEHIND_NS = 1_000_000_000
"""A paced source that is later than this gives up the frames that are overdue and counts them as lost."""

HIDDEN = "***"
_SECRETS = re.compile(r"((?:pass\w*|pwd?|token|secret|key|auth\w*|credentials?|streamid)=)[^&\s]*", re.IGNORECASE)
# The first colon ends the user's name, the last @ the password: people escape neither a / nor an @ inside them. What is
# surely a port is no password.
_PASSWORD = re.compile(r"(://(?:(?:[\d.]+|\[[^\]]*\]):\d{1,5}(?=[/?#]))?+[^:?#]*:).*@", re.DOTALL)
# The same where the scheme was mistyped or forgotten; an @ or a colon in a file's name is none of it.
_MISTYPED = re.compile(
    r"^((?!(?:scene|recording|gige|u3v|v4l2):)(?:[a-z][\w+.-]*[:;]/+|(?:[a-z][\w+.-]*)?//+|(?:rtsps?|srt|udp|rtp|https?)/)?"
    r"[^:/?#]*:)(?!/).*@",
    re.DOTALL | re.IGNORECASE,
)


def open_source(uri: str, live: bool | None = None) -> Source:  # noqa: PLR0911 (one a kind)
    """Open what ``uri`` names: a file, a folder, a camera, or ``scene:`` with its fields as a query.

    Args:
        uri: a path, ``rtsp://user:password@host/path``, ``gige:name``, or
            ``scene:?seed=3&width=640&height=512&bits=16&fps=30``.
        live: whether frames come at their own rate; None is the kind's nature (a scene does, files do
            not). A camera always does.

    Raises:
        SourceError: if it cannot be opened or there is no such kind; one line, credentials masked.
    """
    if _scheme(uri) in NETWORK:
        from stream.sources.network import NetworkSource

        return NetworkSource(uri)
    if _scheme(uri) in CAMERAS:
        from stream.sources.gige import GigeSource

        return GigeSource(uri)
    if _scheme(uri) in DEVICES:
        from stream.sources.v4l2 import V4l2Source

        return V4l2Source(uri)
    if _scheme(uri) == "recording":
        from stream.sources.recording import RecordingSource

        return RecordingSource(Path(uri.partition(":")[2]), bool(live))
    found = _find(uri)
    if not isinstance(found, Path):
        from stream.sources.scene import SceneSource

        return SceneSource(found if live is None else found.model_copy(update={"live": live}))
    if found.is_dir():
        from stream.sources.images import ImagesSource

        return ImagesSource(found, IMAGES_FPS, bool(live))
    from stream.sources.video import VideoSource

    return VideoSource(found, bool(live))


def is_camera(uri: str) -> bool:
    """Tell whether ``uri`` names a camera, which may go away and come back."""
    return _scheme(uri) in (*NETWORK, *CAMERAS, *DEVICES)


def is_live(uri: str, live: bool | None = None) -> bool:
    """Tell whether frames of ``uri`` come at their own rate: cameras always, scenes unless told, files if told."""
    if is_camera(uri):
        return True
    return bool(live) if live is not None else _scheme(uri) == "scene"


def check_source(uri: str) -> None:
    """Find what is wrong with a URI without decoding anything or asking a camera.

    Raises:
        SourceError: as ``open_source`` would for a missing or empty file, a folder without images, an
            unknown kind, a bad address or a bad field. What is wrong inside a file shows only when it is
            opened, and so does a camera that is not there.
    """
    if _scheme(uri) in NETWORK:
        from stream.sources.address import check_url

        check_url(uri)
        return
    if _scheme(uri) in CAMERAS:
        from stream.sources.gige import parse_camera

        parse_camera(uri)
        return
    if _scheme(uri) in DEVICES:
        from stream.sources.v4l2 import parse_device

        parse_device(uri)
        return
    if _scheme(uri) == "recording":
        from stream.sources.recording import find_stream

        find_stream(Path(uri.partition(":")[2]))
        return
    found = _find(uri)
    if not isinstance(found, Path):
        return
    if found.is_dir():
        from stream.sources.images import list_images

        list_images(found)
    else:
        from stream.sources.video import check_video

        check_video(found)


def masked(uri: str) -> str:
    """Return ``uri`` without its secrets, fit for a log: passwords become ``***``."""
    password = _PASSWORD if "://" in uri else _MISTYPED
    return _SECRETS.sub(rf"\1{HIDDEN}", password.sub(rf"\1{HIDDEN}@", uri))


def _scheme(uri: str) -> str:
    if uri.startswith("/dev/video"):
        return "v4l2"
    return uri.partition(":")[0].lower() if ":" in uri else ""


def _find(uri: str) -> Path | SceneConfig:
    scheme, _, rest = uri.partition(":")
    if scheme == "scene":
        return _scene_config(uri, rest)
    shown = masked(uri)
    shown = shown[:200] if uri.isprintable() and uri else repr(shown)[:200]  # one line, whatever it is
    path = Path(uri)
    try:
        there = path.exists()
    except OSError as error:
        raise SourceError(f"{shown}: not a path ({(error.strerror or '').lower()}); give {ACCEPTED}") from None
    if uri and there:
        return path
    if re.match(r"[a-z][a-z0-9+.-]+:", uri, re.IGNORECASE):
        raise SourceError(f"{shown}: unknown kind of source {scheme!r}; give {ACCEPTED}")
    raise SourceError(f"{shown}: no such file or folder; give {ACCEPTED}")


def _scene_config(uri: str, rest: str) -> SceneConfig:
    from pydantic import ValidationError

    from stream.sources.scene import SceneConfig

    fields = ", ".join(SceneConfig.model_fields)
    try:
        query = parse_qsl(rest.removeprefix("?"), keep_blank_values=True, strict_parsing=True) if rest else []
    except ValueError:
        query = [("", "")]
    if (rest and not rest.startswith("?")) or not all(key for key, _ in query):
        raise SourceError(f"{uri}: a scene is scene:?field=value&field=value; its fields are {fields}")
    if len(dict(query)) < len(query):
        raise SourceError(f"{uri}: a field is given twice")
    try:
        return SceneConfig.model_validate(dict(query))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise SourceError(f"{uri}: no field {field!r}; a scene's fields are {fields}") from None
        raise SourceError(f"{uri}: {field}={first['input']}: {first['msg'].lower()}") from None
