"""Keys that people write in YAML: read strictly, and answered in words where they are wrong."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

MERGE = "tag:yaml.org,2002:merge"
MOST_MERGED = 256 * 1024


class _Loader(yaml.SafeLoader):
    """Safe; a key that is given twice is refused, since the second would silently replace the first.

    The merge keys of a small file cannot make it a large one: ``<<: [*a, *a, ...]``, again and again.
    """

    _entries = 0

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 (the stubs have another type than YAML)
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        self._entries += len(node.value)
        if self._entries > MOST_MERGED:
            raise yaml.MarkedYAMLError(problem="its merge keys make too much of it", problem_mark=node.start_mark)


def read_yaml(text: str) -> object:
    """Return what a YAML text says.

    Raises:
        yaml.YAMLError: if it is none, gives a key twice, or grows too large by its merge keys.
    """
    found: object = _Loader(text).get_single_data()
    return found


def first_fault(error: ValidationError) -> ErrorDetails:
    """Return the fault to speak of: a key that there is not is often why another is missing."""
    return min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")


def no_such_key(key: object, known: Sequence[str]) -> str:
    """Say that there is no such key, and which was meant or which there are."""
    near = difflib.get_close_matches(str(key), known, 1)
    return f"no such key; did you mean {near[0]!r}?" if near else f"no such key; there are {', '.join(known)}"
