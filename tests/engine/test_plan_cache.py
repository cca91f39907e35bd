"""A plan comes out of the cache as it went in, or not at all, and a line says why."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from engine import plan_cache
from engine.contract import EngineError
from engine.plan_cache import Key, PlanRefusedError, cache_folder, keep, load_or_build, read

KEY = Key(onnx="a" * 64, builder="tensorrt", gpu="NVIDIA L4 sm_89", recipe="{}", version="11.0", driver=13000)
PLAN = bytes(range(256)) * 40


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_folder()


def plan_file(folder):
    return folder / f"{KEY.slot()}.plan"


def manifest_file(folder):
    return folder / f"{KEY.slot()}.json"


def test_what_was_kept_is_read(folder, capsys):
    """Without a plan there is none and no warning; then there is, for its user alone."""
    assert read(folder, KEY) is None
    keep(folder, KEY, PLAN)
    assert read(folder, KEY) == PLAN
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("other", ["onnx", "builder", "gpu", "recipe"])
def test_another_plan_has_another_place(folder, other, capsys):
    """Another model, library, GPU or profile finds nothing, and leaves what is there."""
    keep(folder, KEY, PLAN)
    assert read(folder, replace(KEY, **{other: "another"})) is None
    assert read(folder, KEY) == PLAN
    assert capsys.readouterr().err == ""


def flip(folder):
    content = bytearray(PLAN)
    content[5000] ^= 1
    plan_file(folder).write_bytes(content)


def truncate(folder):
    plan_file(folder).write_bytes(PLAN[:-1])


def empty(folder):
    plan_file(folder).write_bytes(b"")


def forget(folder):
    manifest_file(folder).unlink()


def spoil(folder):
    manifest_file(folder).write_text("{")


def list_instead(folder):
    manifest_file(folder).write_text("[]")


def open_to_all(folder):
    plan_file(folder).chmod(0o666)


def open_manifest(folder):
    manifest_file(folder).chmod(0o620)


def link(folder):
    plan_file(folder).rename(folder / "elsewhere")
    plan_file(folder).symlink_to(folder / "elsewhere")


def pipe(folder):
    plan_file(folder).unlink()
    os.mkfifo(plan_file(folder))


FAULTS = [
    (flip, "changed since it was built"),
    (truncate, "10239 bytes, where 10240 were written"),
    (empty, "0 bytes, where 10240"),
    (forget, "it has no manifest"),
    (spoil, ".plan: its manifest: "),
    (list_instead, "made for onnx None"),
    (open_to_all, ".plan: others may write it"),
    (open_manifest, ".plan: its manifest: others may write it"),
    (link, "symbolic link"),
    (pipe, "not a file"),
]


@pytest.mark.parametrize(("harm", "said"), FAULTS, ids=[c[0].__name__ for c in FAULTS])
def test_a_plan_that_was_harmed_is_built_anew(folder, harm, said, capsys):
    """Whatever became of a plan, it is not used: one line says why, and a new one takes its place."""
    keep(folder, KEY, PLAN)
    harm(folder)
    assert load_or_build(folder, KEY, lambda: b"new", bytes) == b"new"
    error = capsys.readouterr().err
    assert error.startswith(f"warning: {plan_file(folder)}: ")
    assert said in error
    assert error.count("\n") == 1
    assert read(folder, KEY) == b"new"


STALE = [("version", "11.1"), ("driver", 13010)]


@pytest.mark.parametrize(("field", "value"), STALE, ids=[c[0] for c in STALE])
def test_a_plan_of_another_version_is_built_anew(folder, field, value, capsys):
    """After an update of the library or the driver, the old plan goes and a line says so."""
    keep(folder, KEY, PLAN)
    now = replace(KEY, **{field: value})
    assert load_or_build(folder, now, lambda: b"new", bytes) == b"new"
    assert f"made for {field} {getattr(KEY, field)}, and here is {value}" in capsys.readouterr().err
    assert read(folder, now) == b"new"
    assert len(list(folder.glob("*.plan"))) == 1


def test_a_plan_that_is_refused_is_built_anew(folder, capsys):
    """What deserialisation does not take is built again, once."""
    keep(folder, KEY, PLAN)

    def use(plan):
        if plan == PLAN:
            raise PlanRefusedError("the library says no")
        return plan

    assert load_or_build(folder, KEY, lambda: b"new", use) == b"new"
    assert "the library says no" in capsys.readouterr().err
    keep(folder, KEY, PLAN)
    with pytest.raises(PlanRefusedError):
        load_or_build(folder, KEY, lambda: PLAN, use)


@pytest.mark.parametrize("full", ["write", "rename"])
def test_a_full_disk(folder, full, monkeypatch, capsys):
    """Where nothing can be written the plan is used all the same, nothing half is left, and a line says so."""

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(plan_cache.os, "fsync" if full == "write" else "replace", fail)
    assert load_or_build(folder, KEY, lambda: PLAN, bytes) == PLAN
    error = capsys.readouterr().err
    assert (
        error
        == f"warning: {plan_file(folder)}: No space left on device; the plan is not kept and will be built again\n"
    )
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_a_crash_between_plan_and_manifest(folder, monkeypatch, capsys):
    """A new plan beside an old manifest is seen."""
    keep(folder, KEY, PLAN)
    plan_cache._write(plan_file(folder), PLAN[::-1])
    assert read(folder, KEY) is None
    assert "changed since it was built" in capsys.readouterr().err


def test_a_folder_that_others_may_write(folder):
    """In a folder where others may put files nothing is looked for: a plan is code."""
    folder.chmod(0o777)
    with pytest.raises(EngineError, match=r"plans: others may write it; a plan is code: set XDG_CACHE_HOME"):
        cache_folder()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_what_another_user_made(folder, capsys):
    """A plan of another user is not run, and in a folder of another user none is looked for."""
    keep(folder, KEY, PLAN)
    os.chown(plan_file(folder), 12345, -1)
    assert load_or_build(folder, KEY, lambda: b"new", bytes) == b"new"
    assert "it belongs to another user" in capsys.readouterr().err
    os.chown(folder, 12345, -1)
    with pytest.raises(EngineError, match="plans: it belongs to another user"):
        cache_folder()


def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch):
    """A path that is a file is one line with what to set."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineError, match=r"Not a directory; set XDG_CACHE_HOME"):
        cache_folder()


BUILDER = """
import json, pathlib, sys, time
from engine.plan_cache import Key, load_or_build
folder, mark = map(pathlib.Path, sys.argv[1:3])
def build():
    (mark / f"building-{sys.argv[3]}").touch()
    while not (mark / "go").exists():
        time.sleep(0.01)
    return sys.argv[3].encode() * 1000
print(load_or_build(folder, Key(**json.loads(sys.argv[4])), build, bytes)[:1].decode())
"""


def test_two_processes_build_at_once(folder, tmp_path, capsys):
    """One builds, the other waits and says so, and both use the one plan."""
    key = json.dumps(vars(KEY))
    marks = tmp_path / "marks"
    marks.mkdir()
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(folder), str(marks), name, key],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in "ab"
    ]  # fmt: skip
    try:
        lines = []
        deadline = time.monotonic() + 60
        while not (first := list(marks.glob("building-*"))):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        waiting = builders["ab".index("b" if first[0].name.endswith("a") else "a")]
        lines.append(waiting.stderr.readline())  # it says that it waits before it waits
        (marks / "go").touch()
        answers = {builder.communicate(timeout=60)[0].strip() for builder in builders}
    finally:
        for builder in builders:
            builder.kill()
            builder.wait()
    assert "waiting for another process" in lines[0]
    assert len(answers) == 1
    assert len(list(marks.glob("building-*"))) == 1
