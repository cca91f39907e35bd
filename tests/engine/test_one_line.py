"""What a user can mend is one line and an exit code, whatever the command."""

import errno
import os
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer

from engine.one_line import OutputError, check_output, check_output_folder, one_line_errors, run_command


class KnownError(RuntimeError):
    """What a command knows."""


FAILS = [
    ("an error that is known", KnownError("x.yaml: no such key"), 3, "error: x.yaml: no such key\n"),
    ("a file", FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv"), 3, "error: a.csv: No such file"),
    ("an output", OutputError("--json /no/r: its folder does not exist"), 3, "error: --json /no/r"),
    ("a system's error that names no file", OSError("the device is gone"), 3, "error: the device is gone\n"),
]


@pytest.mark.parametrize(("why", "error", "code", "said"), FAILS, ids=[c[0] for c in FAILS])
def test_what_can_be_mended_is_one_line(why, error, code, said, capsys):
    """The line goes to standard error, and nothing to standard output."""

    @one_line_errors(KnownError, code=code)
    def command():
        raise error

    with pytest.raises(SystemExit) as ended:
        command()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (code, "")
    assert err.startswith(said)
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("a bug"), BrokenPipeError(errno.EPIPE, "Broken pipe")])
def test_what_no_user_can_mend_is_left_alone(error):
    """A bug keeps its traceback; a reader that went is typer's to end quietly."""
    with pytest.raises(type(error)), one_line_errors(KnownError):
        raise error


def test_the_inner_of_two_decides(capsys):
    """A command may end with 1 for some errors and with 2 for the others."""

    @one_line_errors(KnownError, code=1)
    @one_line_errors(ZeroDivisionError)
    def command(error):
        raise error

    for error, code in ((KnownError("it broke"), 1), (ZeroDivisionError("none given"), 2), (OSError("gone"), 2)):
        with pytest.raises(SystemExit) as ended:
            command(error)
        assert ended.value.code == code
    assert capsys.readouterr().err.count("error: ") == 3


@pytest.mark.parametrize("path", [None, "-", "new.json", "there.json", "/dev/null"])
def test_outputs_that_can_be_written(path, tmp_path, monkeypatch):
    """None, standard output, a new file, one that is there, a device; a check leaves no file behind."""
    monkeypatch.chdir(tmp_path)
    Path("there.json").touch()
    check_output("--json", path)
    check_output_folder("--csv", None)
    check_output_folder("--csv", tmp_path / "new" / "deeper")
    assert os.listdir() == ["there.json"]


REFUSED = [
    ("no folder", "no/r.png", "--out no/r.png: its folder does not exist"),
    ("a file for a folder", "file.png/r.png", "--out file.png/r.png: its folder does not exist"),
    ("a folder for a file", "folder", "--out folder: a folder; a file to write is expected"),
    ("another suffix", "r.jpg", r"--out r.jpg: a name that ends in \.png is expected"),
]


@pytest.mark.parametrize(("why", "path", "said"), REFUSED, ids=[c[0] for c in REFUSED])
def test_outputs_that_cannot_be_written(why, path, said, tmp_path, monkeypatch):
    """Each is refused with the option that named it."""
    monkeypatch.chdir(tmp_path)
    Path("file.png").touch()
    Path("folder").mkdir()
    with pytest.raises(OutputError, match=f"^{said}$"):
        check_output("--out", path, ".png")


def test_outputs_that_the_user_may_not_write(tmp_path, monkeypatch):
    """A new file is its folder's matter, one that is there its own; for root, of the tests, neither is refused."""
    asked = []
    monkeypatch.setattr("os.access", lambda path, _: asked.append(path))
    (tmp_path / "there").touch()
    for path in (tmp_path / "there", tmp_path / "new"):
        with pytest.raises(OutputError, match=f"^--out {path}: it may not be written$"):
            check_output("--out", path)
    assert asked == [tmp_path / "there", tmp_path]


def test_a_file_where_a_folder_is_due(tmp_path):
    """A folder cannot be made below a file."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"^--csv .*/file/a: .*/file is a file; a folder is expected$"):
        check_output_folder("--csv", tmp_path / "file" / "a")


def command(
    seconds: Annotated[float, typer.Option(max=9)] = 1.0,
    speed: Annotated[Literal["real", "max"], typer.Option()] = "real",
    source: Annotated[list[str] | None, typer.Option()] = None,
    code: int = 0,
) -> None:
    """Do what is asked."""
    raise typer.Exit(code)


def needy(folder: Annotated[str, typer.Argument()], model: Annotated[str, typer.Option()]) -> None:
    """Need both."""


WRONG = [
    ("a slip", command, ["--secnds", "1"], "--secnds: no such option; did you mean --seconds?"),
    ("nothing like an option", command, ["--zzz"], "--zzz: no such option; --help lists them"),
    ("a value missing", command, ["--speed"], "option '--speed' requires an argument"),
    ("no number", command, ["--seconds", "soon"], "--seconds: input should be a valid number"),
    ("out of range", command, ["--seconds", "10"], "--seconds: input should be less than or equal to 9"),
    ("no such choice", command, ["--speed", "fast"], "--speed: 'fast' is not one of 'real', 'max'"),
    ("a source without its option", command, ["a.mp4"], "a.mp4: no option; did you mean --source a.mp4?"),
    ("an argument too many", needy, ["--model", "m", "a", "b"], "b: no option; --help lists what it takes"),
    ("no argument", needy, ["--model", "m"], "FOLDER: this argument is needed"),
    ("an option that must be given", needy, ["a"], "--model: this option is needed"),
]


@pytest.mark.parametrize(("why", "asked", "arguments", "said"), WRONG, ids=[c[0] for c in WRONG])
def test_a_wrong_command_line_is_one_line_and_two(why, asked, arguments, said, capsys, monkeypatch):
    """No box, no usage: what is wrong with it, and what would be right."""
    monkeypatch.setattr("sys.argv", ["command", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_command(asked)
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {said}")


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_command_that_ran_ends_with_its_own_code(code, monkeypatch):
    """As typer ends it."""
    monkeypatch.setattr("sys.argv", ["command", "--code", str(code)])
    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == code
