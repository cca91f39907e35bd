"""The configuration: what is wrong is named by file and key, with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.config import DEFAULT_ENDPOINT, ConfigError, load_config, streams_of

GOOD = """
model: rpcanet_plus_k1
streams:
  - {name: sky, source: "scene:?seed=1"}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def test_what_is_not_said_has_a_default(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.publish.endpoint == DEFAULT_ENDPOINT
    assert config.engine == "auto"
    assert config.streams[0].live is None


def test_the_shipped_configurations_are_good() -> None:
    found = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
    assert found
    for path in found:
        load_config(path)


def test_overrides_replace_keys_and_make_the_maps_they_need(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD), {"publish.endpoint": "tcp://127.0.0.1:7000", "duration": 3})
    assert config.publish.endpoint == "tcp://127.0.0.1:7000"
    assert config.duration == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("streams: [", "c.yaml: not YAML: .* in line 1"),
        ("- a\n- b", "c.yaml: a map of keys is expected"),
        ("model: x", "streams: field required"),
        (GOOD + "modle: x", "modle: no such key; did you mean 'model'"),
        (GOOD.replace("source:", "sauce:"), "streams.0.sauce: no such key; did you mean 'source'"),
        (GOOD + "streams: []", "c.yaml: not YAML: 'streams' is given twice in line 5"),
        ("streams: 3", r"streams: a list is expected \(it is 3\)"),
        ("streams: [a]", r"streams.0: a map of keys is expected \(it is 'a'\)"),
        (GOOD + "publish: {insecure: yess}", r"publish.insecure: true or false is expected \(it is 'yess'\)"),
        (GOOD + "batch: {larges: 3}", "batch.larges: no such key; did you mean 'largest'"),
        (GOOD + "batch: {largest: 0}", r"batch.largest: .*greater than or equal to 1 \(it is 0\)"),
        (GOOD + "duration: -1", r"duration: .*greater than 0 \(it is -1\)"),
        (GOOD + "publish: {endpoint: 5560}", r"publish.endpoint: a text is expected \(it is 5560\)"),
        (GOOD.replace("sky", "a b"), r"streams.0.name: 1 to 64 letters"),
        (GOOD + "  - {name: sky, source: x}", "streams: two streams are named 'sky'"),
        (GOOD.replace("seed=1\"", "seed=1\", window: [5, 5]"), "streams.0.window: the first value must be below"),
        ("streams: []", "streams: at least 1 is needed"),
        (GOOD + "threads: " + "9" * 5000, "c.yaml: not a configuration: Exceeds the limit"),
        (GOOD.replace("rpcanet_plus_k1", "2001-99-99"), "c.yaml: not a configuration: month must be"),
        ("streams: " + "[" * 500, "c.yaml: not a configuration: maximum recursion depth"),
        (GOOD + "#" * 300_000, "c.yaml: more than 256 KiB"),
        (GOOD.replace("rpcanet_plus_k1", "!!python/object/apply:os.system [true]"), "not YAML: could not determine a"),
        ("a: &a [1, 1]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n"
         for i in range(12)) + GOOD.replace("rpcanet_plus_k1", "*m"), "a: no such key"),
        ("x0: &x0 {k: v}\n" + "".join(f"x{i}: &x{i} {{<<: [{', '.join([f'*x{i - 1}'] * 10)}]}}\n" for i in range(1, 9)),
         "not YAML: its merge keys make too much of it in line 6"),
        ("streams:\n" + "".join(f"- {{name: s{i}, source: x}}\n" for i in range(65)), "streams: .*at most 64"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "c.yaml" in str(caught.value)


def test_what_is_wrong_with_a_source_of_the_command_line_names_the_option(tmp_path: Path) -> None:
    overrides = {"streams": streams_of([""], live=None)}
    with pytest.raises(ConfigError, match=r"^--source: a text is expected"):
        load_config(write(tmp_path, GOOD), overrides, {"streams": "--source"})


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone.yaml: No such file"):
        load_config(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)


def test_streams_of_the_command_line_are_named_after_their_sources() -> None:
    named = streams_of(["clips/a b.mp4", "x/a b.mp4", "frames/", "scene:?seed=3"], live=None)
    assert [stream["name"] for stream in named] == ["a_b", "a_b_2", "frames", "scene"]
    assert [stream["source"] for stream in named][2] == "frames/"


def test_a_stream_is_never_named_after_a_password() -> None:
    sources = ["rtsp://user:secret@host", "rtsp://user:se/cret@host:554/live", "rtsp://host/live?password=secret"]
    named = streams_of(sources, live=None)
    assert [stream["name"] for stream in named] == ["host", "live", "live_2"]
    # Of a path that is made of fields, and so of the password, the host is left.
    sources = ["rtsp://10.1.1.1/user=a_password=secret_channel=1.sdp", "rtsp://user:p?secret@host/1", "a:secret@host"]
    named = streams_of(sources, live=None)
    assert [stream["name"] for stream in named] == ["10.1.1.1", "1", "host"]


def test_an_at_sign_in_a_files_name_is_a_part_of_it() -> None:
    (named,) = streams_of(["clips/a@b.mp4"], live=None)
    assert named["name"] == "a_b"


def test_what_is_wrong_is_quoted_without_its_password(tmp_path: Path) -> None:
    for given in ("rtsp://a:secret@host/a/long/path", "[rtsp://a:secret@host/a/long/path]"):
        with pytest.raises(ConfigError) as caught:
            load_config(write(tmp_path, f"streams:\n  - {{name: {given}, source: x}}"))
        assert "a:***" in str(caught.value)
        assert "a:s" not in str(caught.value)


def test_cameras_whose_url_has_no_path_are_named_after_host_and_port() -> None:
    named = streams_of(
        ["srt://10.0.0.2:5000?mode=caller", "srt://10.0.0.2:5001", "udp://@:5000", "gige:10.0.0.2"], live=None
    )
    assert [stream["name"] for stream in named] == ["10.0.0.2_5000", "10.0.0.2_5001", "5000", "gige_10.0.0.2"]
