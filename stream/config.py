"""The configuration: what to run, from YAML, checked before anything starts."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engine.keys import first_fault, no_such_key, read_yaml
from stream import StreamError
from stream.curve import ServerCurve, check_exposure
from stream.detect import DetectConfig
from stream.sources import HIDDEN, masked
from stream.track import TrackConfig

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5560"
NAME, ENDPOINT = r"^[A-Za-z0-9_.-]{1,64}$", r"^(tcp|ipc)://.+"
IN_WORDS = {
    NAME: "1 to 64 letters, digits, '_', '-' and '.' are expected",
    ENDPOINT: "tcp://HOST:PORT is expected, or ipc://PATH",
}
TYPES_IN_WORDS = {
    "tuple_type": "a list is expected",
    "model_type": "a map of keys is expected",
    "bool_type": "true or false is expected",
    "bool_parsing": "true or false is expected",
    "string_type": "a text is expected",
    "string_too_short": "a text is expected",
}
MAX_BYTES = 256 * 1024
MAX_STREAMS = 64


class _Shortened(reprlib.Repr):
    """What was given, cut short once its secrets are out: a cut URL no longer shows where its password ends."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(masked(x), level)


class ConfigError(StreamError):
    """A configuration that cannot be used; the message names the file, the key and what would be right."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamConfig(_Strict):
    """One stream.

    Attributes:
        name: in topics and reports.
        source: a video file, a folder of images, or ``scene:?width=320&height=256&seed=1``.
        live: pace a file at its own rate and drop what comes while all is busy; None leaves it to
            the source: scenes are live, files are not.
        window: the pixel values that the network sees as 0 and 1; None means 0 and 255 for 8-bit
            frames, and for 16-bit ones the range that they fill, followed over time.
    """

    name: Annotated[str, Field(pattern=NAME)]
    source: Annotated[str, Field(min_length=1)]
    live: bool | None = None
    window: tuple[float, float] | None = None

    @field_validator("window")
    @classmethod
    def _rising(cls, window: tuple[float, float] | None) -> tuple[float, float] | None:
        if window and not window[0] < window[1]:
            raise ValueError("the first value must be below the second")
        return window


class BatchConfig(_Strict):
    """How frames of several streams share the engine.

    Attributes:
        largest: frames in a batch; None leaves it to the engine.
        window_ms: how long a frame may wait for others while the engine is free.
    """

    largest: Annotated[int, Field(ge=1, le=64)] | None = None
    window_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0


class PublishConfig(_Strict):
    """Where the tracks go.

    Attributes:
        endpoint: the ZeroMQ endpoint to bind.
        wait_for: subscribers to wait for before the first frame is read.
        key: the publisher's secret key, a file of ``python -m stream.keys``; goes with ``clients``.
        clients: the folder of the public keys of clients that may listen.
        insecure: let anyone listen, though other machines can reach the endpoint.
    """

    endpoint: Annotated[str, Field(pattern=ENDPOINT)] = DEFAULT_ENDPOINT
    wait_for: Annotated[int, Field(ge=0)] = 0
    key: Path | None = None
    clients: Path | None = None
    insecure: bool = False

    @property
    def curve(self) -> ServerCurve | None:
        """The keys, if there are."""
        return ServerCurve(self.key, self.clients) if self.key and self.clients else None

    @model_validator(mode="after")
    def _not_exposed(self) -> PublishConfig:
        if (self.key is None) != (self.clients is None):
            raise ValueError("key and clients go together; only one is there")
        port = self.endpoint.rpartition(":")[2]  # ZeroMQ takes a larger one modulo 65536
        if (
            self.endpoint.startswith("tcp://")
            and port != "*"
            and not (port.isdecimal() and 1 <= int(port[:9]) <= 65535)
        ):
            raise ValueError(f"{self.endpoint}: tcp://HOST:PORT with a port of 1 to 65535 is expected")
        check_exposure(self.endpoint, self.curve is not None, self.insecure)
        return self


class RecordConfig(_Strict):
    """What is kept of a run.

    Attributes:
        folder: where frames and messages are kept, a folder a run in it; None keeps nothing.
        max_gb: of all recordings in the folder, gigabytes; the oldest minutes leave to make room.
    """

    folder: Annotated[str, Field(min_length=1)] | None = None
    max_gb: Annotated[float, Field(ge=0.01)] = 20.0


class Config(_Strict):
    """A run of the pipeline.

    Attributes:
        model: a shipped model's name, or the path of an .onnx file.
        engine: ``auto``, or a backend by name.
        threads: CPU threads of the engine; None leaves it to the backend.
        duration: seconds after which the run ends; None runs until the sources end or someone stops it.
        streams: the streams.
        batch: how streams share the engine.
        detect: how target maps become detections.
        track: how detections become tracks.
        publish: where the tracks go.
        record: what is kept of the run.
        view: where to serve the live view, the metrics and the health, as HOST:PORT; None serves none.
        metrics: where to serve the metrics and the health alone.
    """

    model: str = "rpcanet_plus_k1"
    engine: str = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    duration: Annotated[float, Field(gt=0)] | None = None
    streams: Annotated[tuple[StreamConfig, ...], Field(min_length=1, max_length=MAX_STREAMS)]
    batch: BatchConfig = BatchConfig()
    detect: DetectConfig = DetectConfig()
    track: TrackConfig = TrackConfig()
    publish: PublishConfig = PublishConfig()
    record: RecordConfig = RecordConfig()
    view: Annotated[str, Field(min_length=1)] | None = None
    metrics: Annotated[str, Field(min_length=1)] | None = None

    @field_validator("streams")
    @classmethod
    def _distinct(cls, streams: tuple[StreamConfig, ...]) -> tuple[StreamConfig, ...]:
        names = [stream.name for stream in streams]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two streams are named {name!r}; names must differ")
        return streams


def load_config(path: Path, overrides: dict[str, Any] | None = None, options: dict[str, str] | None = None) -> Config:
    """Read and check a configuration.

    Args:
        path: a YAML file.
        overrides: keys that replace the file's, by dotted name.
        options: what the user calls an override, by dotted name.

    Raises:
        ConfigError: naming the file and the key, or the option, and what would be right.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ConfigError(f"{path}: more than {MAX_BYTES // 1024} KiB; no configuration is that large")
        raw = read_yaml(text.decode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; a configuration is a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {_yaml_reason(error)}") from None
    except (ValueError, RecursionError) as error:  # a date that is none, a number of 5000 digits, a nest too deep
        raise ConfigError(f"{path}: not a configuration: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a map of keys is expected at the top, such as 'streams:'")
    if isinstance(raw.get("publish"), str):  # publish: tcp://127.0.0.1:5560
        raw["publish"] = {"endpoint": raw["publish"]}
    for dotted, value in (overrides or {}).items():
        _set(raw, dotted, value)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        key = ".".join(str(part) for part in first_fault(error)["loc"])
        given = [name for name in (options or {}) if name in (overrides or {}) and _overlap(name, key)]
        where = (options or {})[given[0]] if given else f"{path}: {key}"
        raise ConfigError(f"{where}: {_explain(error)}") from None


def streams_of(sources: list[str], live: bool | None) -> list[dict[str, Any]]:
    """Return a ``streams`` value for sources given on the command line, named after them."""
    streams: list[dict[str, Any]] = []
    for source in sources:
        place = masked(source).partition("?")[0]
        if "://" in source or HIDDEN in place:
            place = place.rpartition("@")[2].rpartition("://")[2]  # neither a user nor a password names anything
        place = "/".join(part for part in place.strip("/:").split("/") if HIDDEN not in part)
        whole = "/" not in place and ("://" in source or ":" in place)  # of 10.0.0.2:5000 and gige:10.0.0.2, all of it
        stem = place if whole else Path(place).stem
        name = base = "".join(c if (c.isascii() and c.isalnum()) or c in "_.-" else "_" for c in stem)[:48] or "stream"
        taken = {stream["name"] for stream in streams}
        number = 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        streams.append({"name": name, "source": source, "live": live})
    return streams


def _set(raw: dict[str, Any], dotted: str, value: Any) -> None:  # noqa: ANN401 (any YAML value)
    *parents, last = dotted.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {}) if isinstance(raw.get(parent, {}), dict) else {}
    raw[last] = value


def _yaml_reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split())


def _overlap(name: str, key: str) -> bool:
    """Tell whether one dotted name is the other, or a part of it."""
    return f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}.")


def _explain(error: ValidationError) -> str:
    """Say the first thing that is wrong, and what would be right."""
    first = first_fault(error)
    if first["type"] == "extra_forbidden":
        return no_such_key(first["loc"][-1], _keys_at(first["loc"][:-1]))
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        reason = IN_WORDS[first["ctx"]["pattern"]]
    reason = TYPES_IN_WORDS.get(first["type"], reason)
    if first["type"] == "too_short":
        reason = f"at least {first['ctx']['min_length']} is needed"
    whole = first["type"] in ("missing", "too_short") or isinstance(first["input"], dict)  # its keys say no more
    got = "" if whole else f" (it is {_Shortened().repr(first['input'])})"
    return f"{reason[0].lower()}{reason[1:]}{got}"


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in loc:
        if part == "streams":
            model = StreamConfig
        elif isinstance(part, str):
            annotation = model.model_fields[part].annotation
            assert isinstance(annotation, type)
            model = annotation
    return list(model.model_fields)
