"""How commands say what went wrong: one line on standard error, and an exit code."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from engine.asides import fail

if TYPE_CHECKING:
    import typer


class OutputError(RuntimeError):
    """A file that could not be written; the message names the option and the path."""


@contextmanager
def one_line_errors(*known: type[Exception], code: int = 2) -> Iterator[None]:
    """Turn what a user can mend into ``error: ...`` on standard error and an exit; a decorator of commands, too.

    Args:
        known: errors whose message is one line that says it all; those of files are always among them.
        code: what to exit with.
    """
    mended: tuple[type[Exception], ...] = (OutputError, *known)
    try:
        yield
    except mended as error:
        said = str(error)
    except BrokenPipeError:  # nobody reads any more; typer ends without a word
        raise
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    else:
        return
    fail(said)
    raise SystemExit(code)


def run_command(command: Callable[..., object] | typer.Typer) -> NoReturn:
    """Run a command as ``typer.run`` does, but say in one line what is wrong with its command line, and exit with 2."""
    import typer
    from typer.main import get_command

    app = command if isinstance(command, typer.Typer) else typer.Typer(add_completion=False)
    if app is not command:
        app.command()(command)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # start_quietly's
        signal.signal(signal.SIGINT, signal.default_int_handler)
    named = get_command(app)
    _name_values(named)
    usage_error: Any = typer.BadParameter.__bases__[0]  # which typer does not name
    try:
        code = named(standalone_mode=False)
    except usage_error as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # its message is the help
        else:
            fail(_usage(error))
        code = 2
    raise SystemExit(code if isinstance(code, int) else 0)


def _name_values(command: Any) -> None:  # noqa: ANN401 (typer's own type)
    """Have a command's help call what an option takes by the option's name; typer calls it by Python's type."""
    import typer

    for param in (*command.params, command.get_help_option(typer.Context(command))):
        if param.metavar is None:
            param.metavar = "" if getattr(param, "is_flag", False) else param.name.rpartition("_")[2].upper()
    for each in getattr(command, "commands", {}).values():
        _name_values(each)


def _usage(error: Any) -> str:  # noqa: ANN401 (its class has no public name)
    """Return what is wrong with a command line, in the words of our other errors."""
    if hasattr(error, "possibilities"):
        near = next(iter(error.possibilities or ()), "")
        return f"{error.option_name}: no such option; {f'did you mean {near}?' if near else '--help lists them'}"
    said = " ".join(error.message.split()).rstrip(".").removeprefix("Value error, ")
    said = said[:1].lower() + said[1:].replace(". Did you", "; did you")
    param = getattr(error, "param", None)
    if param is None:
        extra = said.partition("extra argument(s) (")[2].rstrip(")")
        takes_sources = extra and any("--source" in param.opts for param in error.ctx.command.params)
        hint = f"did you mean --source {extra}?" if takes_sources else "--help lists what it takes"
        return f"{extra}: no option; {hint}" if extra else said
    name = param.opts[-1] if param.param_type_name == "option" else param.metavar or param.name.upper()
    if type(error).__name__ == "MissingParameter":
        said = f"this {param.param_type_name} is needed{f'; {said}' if said else ''}"
    return f"{name}: {said}"


def check_output(option: str, path: str | Path | None, suffix: str = "") -> None:
    """Refuse, before minutes of work, a file that could not be written after them.

    Args:
        option: what the path was given with.
        path: of the file; None and ``-``, standard output, are fine.
        suffix: what its name must end in.

    Raises:
        OutputError: naming the option and what is wrong.
    """
    if path is None or str(path) == "-":
        return
    file = Path(path)
    if not file.absolute().parent.is_dir():
        raise OutputError(f"{option} {path}: its folder does not exist")
    if file.is_dir():
        raise OutputError(f"{option} {path}: a folder; a file to write is expected")
    if file.suffix != suffix and suffix:
        raise OutputError(f"{option} {path}: a name that ends in {suffix} is expected")
    if not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise OutputError(f"{option} {path}: it may not be written")


def check_output_folder(option: str, path: Path | None) -> None:
    """Refuse a folder that could not be made or written to; see ``check_output``."""
    if path is None:
        return
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise OutputError(f"{option} {path}: {there} is a file; a folder is expected")
    if not os.access(there, os.W_OK):
        raise OutputError(f"{option} {path}: {there} may not be written")
