"""The live view of a pipeline that runs already: ``python -m stream.web --connect ENDPOINT``."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.one_line import one_line_errors, run_command
from stream import StreamError
from stream.config import DEFAULT_ENDPOINT
from stream.curve import read_client_keys
from stream.subscribe import Key, ServerKey
from stream.web.address import DEFAULT, listen
from stream.web.feed import check_endpoint
from stream.web.server import serve


@one_line_errors(StreamError)
def main(
    connect: Annotated[str, typer.Option(help="Where the pipeline publishes.", metavar="ENDPOINT")] = DEFAULT_ENDPOINT,
    view: Annotated[str, typer.Option(help="Where to serve the page.", metavar="HOST:PORT")] = DEFAULT,
    server_key: ServerKey = None,
    key: Key = None,
) -> None:
    """Show a running pipeline in a browser, with /metrics for Prometheus; waits for one that does not run yet.

    Pictures are shown where the pipeline runs on this host as the same user;
    tracks always. Elsewhere than on loopback it asks for a token, a random one
    or that of IRSTREAM_TOKEN.
    """
    keys = read_client_keys(server_key, key)
    check_endpoint(connect)
    listener = listen("--view", view)
    print(f"live view of {connect}: {listener.url}", flush=True)
    serve(connect, keys, [listener], [])


if __name__ == "__main__":
    run_command(main)
