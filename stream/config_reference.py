"""The reference of the configuration, written from its models: ``python -m stream.config_reference FILE``.

What a key means is said once, in its model's docstring; its type, its range and its default are the field's own.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel

from engine.one_line import one_line_errors, run_command
from stream.config import Config

INTRODUCTION = """# Configuration

<!-- Written by python -m stream.config_reference; change the docstrings of the models instead. -->

A run is described by a YAML file of at most 256 KiB: `python run_pipeline.py --config site.yaml`. A key that is not
given has its default; only `streams` must be there. A key that does not exist, or a value out of its range, is refused
with one line that names the file and the key. Options of the command line replace keys of the file.

```yaml
model: rpcanet_plus_k1
streams:
  - {name: north, source: "rtsp://user:password@10.0.0.7/stream"}
  - {name: south, source: "gige:?pixel_format=Mono16"}
publish:
  endpoint: tcp://0.0.0.0:5560
  key: keys/server.key_secret
  clients: keys/clients
```

`publish: tcp://127.0.0.1:5599` is short for `publish: {endpoint: tcp://127.0.0.1:5599}`. Paths are relative to the
folder that the command is run in.
"""
WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


def reference() -> str:
    """Return the reference as Markdown."""
    return INTRODUCTION + "".join(_section(title, model) for title, model in _models(Config, ""))


def _models(model: type[BaseModel], path: str) -> list[tuple[str, type[BaseModel]]]:
    """Return a model and those within it, by the path of their keys."""
    found = [(path, model)]
    for name, field in model.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if inspect.isclass(part) and issubclass(part, BaseModel):
                listed = "[]" if part is not field.annotation else ""
                found += _models(part, f"{path}.{name}{listed}".lstrip("."))
    return found


def _section(path: str, model: type[BaseModel]) -> str:
    summary, meanings = _docstring(model)
    lines = ["", f"## `{path}`" if path else "## The file", "", summary, ""]
    lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    schema = model.model_json_schema()
    required = schema.get("required", [])
    for name, said in schema["properties"].items():
        default = "required" if name in required else _default(said)
        cells = (f"`{name}`", _value(said), default, meanings[name])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _docstring(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """Return a model's first sentence and what it says of each of its attributes."""
    summary, _, attributes = inspect.getdoc(model).partition("\n\nAttributes:\n")  # type: ignore[union-attr]
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", attributes, re.MULTILINE | re.DOTALL)
    return summary.strip(), {
        name: re.sub(r"\bNone\b", "null", " ".join(text.split())).replace("``", "`") for name, text in entries
    }


def _default(said: dict[str, Any]) -> str:
    if "default" not in said or isinstance(said["default"], dict):
        return ""
    return f"`{json.dumps(said['default'])}`"


def _value(said: dict[str, Any]) -> str:
    """Return what a key takes: its type and its range."""
    if "$ref" in said:
        return "a map"
    if "anyOf" in said:
        return ", or ".join("null" if one["type"] == "null" else _value(one) for one in said["anyOf"])
    if said["type"] == "array":
        if "prefixItems" in said:
            return "[" + ", ".join(_value(one) for one in said["prefixItems"]) + "]"
        return f"a list of maps, {said['minItems']} to {said['maxItems']}"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {said[key]:g}" for key, sign in bounds.items() if key in said]
    if "pattern" in said:
        limits.append(f"as `{said['pattern']}`")
    kind = "path" if said.get("format") == "path" else WORDS[said["type"]]
    return ", ".join([kind, *limits])


@one_line_errors()
def main(
    path: Annotated[Path, typer.Argument(help="The file to write.", metavar="FILE")] = Path("docs/configuration.md"),
) -> None:
    """Write the reference of the configuration from its models."""
    path.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
