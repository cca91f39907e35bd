"""The live view of a pipeline that runs already: ``python -m stream.web --connect ENDPOINT``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from stream import StreamError
from stream.config import DEFAULT_ENDPOINT
from stream.web.address import DEFAULT, listen
from stream.web.feed import check_endpoint
from stream.web.server import serve


def main(
    connect: Annotated[str, typer.Option(help="Where the pipeline publishes.")] = DEFAULT_ENDPOINT,
    view: Annotated[str, typer.Option(help="Where to serve the page, as HOST:PORT.")] = DEFAULT,
) -> None:
    """Show a running pipeline in a browser, with /metrics for Prometheus; waits for one that does not run yet.

    Pictures are shown where the pipeline runs on this host as the same user; tracks always. Elsewhere than on
    loopback it asks for a token, a random one or that of IRSTREAM_TOKEN.
    """
    try:
        check_endpoint(connect)
        listener = listen("--view", view)
    except StreamError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(f"live view of {connect}: {listener.url}", flush=True)
    serve(connect, [listener], [])


if __name__ == "__main__":
    typer.run(main)
