"""A recording's messages again, live or as files: ``python -m stream.replay FOLDER``."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from engine.one_line import check_output, check_output_folder, one_line_errors, run_command
from stream import StreamError
from stream.config import DEFAULT_ENDPOINT
from stream.curve import is_local
from stream.export_tracks import write_csv, write_jsonl, write_mot
from stream.messages import KINDS
from stream.publish import Publisher
from stream.record import RecordedMessage, find_streams, read_messages, segments


class Speed(StrEnum):
    """How fast messages are published again."""

    REAL = "real"
    MAX = "max"


def recorded_messages(folder: Path) -> Iterator[RecordedMessage]:
    """Yield the messages of all streams of a recording in the order of their times.

    Args:
        folder: of a run, of one of its streams, or of recordings if it has those of one run only.

    Raises:
        RecordingError: if it cannot be read.
    """
    streams = [_stream_messages(path) for path in find_streams(folder).values()]
    return heapq.merge(*streams, key=lambda message: message.time_ns)


def _stream_messages(folder: Path) -> Iterator[RecordedMessage]:
    for stem in segments(folder):
        for message in read_messages(stem):
            if message.topic.partition("/")[0] in KINDS:
                yield message


def publish_again(messages: Iterable[RecordedMessage], publisher: Publisher, speed: Speed) -> int:
    """Publish messages, at the pace of their times or as fast as the subscribers take them; return how many."""
    start_ns = count = 0
    for message in messages:
        start_ns = start_ns or time.monotonic_ns() - message.time_ns
        if speed is Speed.REAL and (left := start_ns + message.time_ns - time.monotonic_ns()) > 0:
            time.sleep(left / 1e9)
        publisher.send(message.topic, message.payload)
        count += 1
    return count


@one_line_errors(StreamError)
def main(
    folder: Annotated[Path, typer.Argument(help="A recording: the folder of a run, or of one of its streams.")],
    speed: Annotated[
        Speed, typer.Option(help="At the recorded pace, or as fast as subscribers take it.", metavar="real|max")
    ] = Speed.REAL,
    publish: Annotated[str, typer.Option(help="ZeroMQ endpoint to publish on.")] = DEFAULT_ENDPOINT,
    wait_for: Annotated[
        int, typer.Option(help="Subscribers to wait for before the first message.", min=0, metavar="COUNT")
    ] = 0,
    csv: Annotated[Path | None, typer.Option(help="Write a row a track and frame to this file instead.")] = None,
    mot: Annotated[Path | None, typer.Option(help="Write a MOTChallenge file a stream to this folder instead.")] = None,
    jsonl: Annotated[
        Path | None, typer.Option(help="Write each message as a line of JSON to this file instead.")
    ] = None,
) -> None:
    """Publish a recording's messages again, or write them to files.

    Messages are published as they were, their times included. To track a
    recording's frames anew, run the pipeline on it:
    run_pipeline.py --source recording:FOLDER/STREAM.
    """
    check_output("--csv", csv)
    check_output_folder("--mot", mot)
    check_output("--jsonl", jsonl)
    messages = recorded_messages(folder)
    try:
        if csv or mot or jsonl:
            for path, write in ((csv, write_csv), (mot, write_mot), (jsonl, write_jsonl)):
                if path:
                    print(f"{path}: {write(recorded_messages(folder), path)}")
            return
        if publish.startswith("tcp:") and not is_local(publish):
            raise StreamError(f"--publish {publish}: a recording is published without keys, for this machine alone")
        publisher = Publisher(publish, lossless=speed is Speed.MAX)
        publisher.wait_for(wait_for)
        print(f"publishing {folder} on {publish}", flush=True)
        count = publish_again(messages, publisher, speed)
        publisher.close()
        print(f"{count} messages published")
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    run_command(main)
