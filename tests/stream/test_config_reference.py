"""The reference of the configuration says of every key what the models say, and is current."""

from __future__ import annotations

from pathlib import Path

from stream.config_reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_current() -> None:
    written_by = "python -m stream.config_reference docs/configuration.md"
    assert PAGE.read_text(encoding="utf-8") == reference(), f"docs/configuration.md is old; run {written_by}"


def test_every_key_has_its_type_range_default_and_meaning() -> None:
    lines = reference().splitlines()
    assert "## `streams[]`" in lines
    assert "## `detect`" in lines
    rows = [line for line in lines if line.startswith("| `")]
    assert all(row.count(" | ") == 3 and not row.endswith("|  |") for row in rows)
    (low,) = (row for row in rows if row.startswith("| `low`"))
    assert (
        low == "| `low` | number, > 0, < 1 | `0.2` | probability above which pixels join a detection; at most `high`. |"
    )
