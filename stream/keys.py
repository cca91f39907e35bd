"""Keys of publishers and clients: ``python -m stream.keys make|allow|list|remove``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

try:
    import typer
except ModuleNotFoundError:  # the client alone goes without
    print("error: this command needs typer: pip install './client[cli]'", file=sys.stderr)
    raise SystemExit(2) from None

from engine.asides import fail
from engine.one_line import run_command
from stream import StreamError
from stream.curve import allow, allowed, make_pair, read_public, remove

KEYS = Path("keys")
CLIENTS = Path("keys/clients")
Name = Annotated[str, typer.Argument(help="Letters, digits, '_', '-' and '.'.", metavar="NAME")]
Clients = Annotated[Path, typer.Option(help="The folder of allowed clients' public keys.", metavar="FOLDER")]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="""Make key pairs, and say whose client may listen to a publisher.

    A publisher and each of its clients have a key pair of their own: NAME.key,
    which others may know, and NAME.key_secret, which stays where it was made.
    The publisher has a folder of the clients that it lets in; a change of it
    counts from the next client that connects.
    """,
)


@app.command("make")
def make_command(
    name: Name, folder: Annotated[Path, typer.Option(help="Where to write it.", metavar="FOLDER")] = KEYS
) -> None:
    """Make a key pair, of a publisher or of a client; only you can read the files (mode 600)."""

    def make() -> None:
        public, secret = make_pair(folder, name)
        print(f"{public}: public key {read_public(str(public)).decode()}")
        print(f"{secret}: secret key; keep it to yourself")

    _say(make)


@app.command("allow")
def allow_command(
    name: Name,
    key: Annotated[str, typer.Argument(help="The client's public key: its file, or the 40 characters.", metavar="KEY")],
    clients: Clients = CLIENTS,
) -> None:
    """Let a client in, or give it a new key."""
    _say(lambda: print(f"{allow(clients, name, read_public(key))}: {name} may listen"))


@app.command("list")
def list_command(clients: Clients = CLIENTS) -> None:
    """List the clients that are let in, with their public keys."""

    def show() -> None:
        for name, key in allowed(clients).items():
            print(name, key.decode())

    _say(show)


@app.command("remove")
def remove_command(name: Name, clients: Clients = CLIENTS) -> None:
    """Let a client in no more; one that is connected stays until it connects again."""

    def take() -> None:
        remove(clients, name)
        print(f"{name} may connect no more")

    _say(take)


def _say(act: Callable[[], None]) -> None:
    try:
        act()
    except StreamError as error:
        fail(str(error))
        raise typer.Exit(2) from None


if __name__ == "__main__":
    run_command(app)
