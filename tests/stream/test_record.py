"""A recording keeps every pixel and every message, within its bound, and is readable however its writer ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from stream.frame import FrameRef, Publish, Ready, Recorded, Returned, Stop, TapEnd, Tapped, receive, send
from stream.record import (
    MCAP,
    VIDEO,
    FrameRecord,
    RecordingError,
    SegmentWriter,
    find_streams,
    new_run,
    read_frames,
    read_messages,
    read_records,
    segments,
)
from stream.ring import FrameRing
from stream.workers import record
from stream.workers.record import RecordWorkerConfig

WIDTH, HEIGHT = 48, 32


def pixels_of(seq: int, bits: int) -> np.ndarray:
    return np.random.default_rng(seq).integers(0, 1 << bits, (HEIGHT, WIDTH)).astype("u1" if bits == 8 else "<u2")


def frame_record(seq: int, bits: int = 8, kept: bool = True) -> FrameRecord:
    return FrameRecord(
        seq=seq, width=WIDTH, height=HEIGHT, bits=bits, captured_ns=seq * 33_000_000, captured_utc_ns=10**18 + seq,
        camera_ns=None, time_ns=seq * 33_000_000, low=1.5, high=0.1 + 0.2, live=True, dropped={"late": 1}, kept=kept,
        truth=[(1, 0.1, 0.2)],
    )  # fmt: skip


def message_of(seq: int) -> Publish:
    return Publish("tracks/a", b"\x81\xa1a" + bytes([seq % 128]))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_segment_gives_back_every_pixel_record_and_message(bits: int, tmp_path: Path) -> None:
    """What is read is what was written, to the bit; a frame whose pixels were not kept has its record still."""
    writer = SegmentWriter(tmp_path / "000001", "a", 0)
    records = [frame_record(seq, bits, kept=seq != 3) for seq in range(8)]
    for each in records:
        writer.add(each, pixels_of(each.seq, bits) if each.kept else None, [message_of(each.seq)])
    writer.close()
    assert list(read_records(tmp_path / "000001")) == records
    found = list(read_frames(tmp_path / "000001"))
    assert [each for each, _ in found] == [each for each in records if each.kept]
    for each, pixels in found:
        assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
        assert np.array_equal(pixels, pixels_of(each.seq, bits))
    sent = [m.payload for m in read_messages(tmp_path / "000001") if m.topic == "tracks/a"]
    assert sent == [message_of(seq).payload for seq in range(8)]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [MCAP, VIDEO])
def test_a_segment_that_is_cut_anywhere_gives_what_is_before_the_cut(suffix: str, bits: int, tmp_path: Path) -> None:
    """However many bytes are there, what is read is a beginning of what was written: nothing torn, nothing raised."""
    writer = SegmentWriter(tmp_path / "000001", "a", 0)
    for seq in range(6):
        writer.add(frame_record(seq, bits), pixels_of(seq, bits), [message_of(seq)])
    writer.close()
    whole = (tmp_path / "000001").with_suffix(suffix)
    other = (tmp_path / "000001").with_suffix(MCAP if suffix == VIDEO else VIDEO)
    size, counts = whole.stat().st_size, []
    cut = tmp_path / "cut"
    shutil.copy(other, cut.with_suffix(other.suffix))
    for end in sorted({0, 1, 7, *range(50, size, max(1, size // 60)), size - 1}):
        cut.with_suffix(suffix).write_bytes(whole.read_bytes()[:end])
        found = list(read_frames(cut))
        assert [each.seq for each, _ in found] == list(range(len(found)))
        assert all(np.array_equal(pixels, pixels_of(each.seq, bits)) for each, pixels in found)
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[-1] >= 5


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from tests.stream.test_record import SegmentWriter, frame_record, message_of, pixels_of
writer = SegmentWriter(Path(sys.argv[1]), "a", 0)
for seq in range(10**6):
    writer.add(frame_record(seq, 16), pixels_of(seq, 16), [message_of(seq)])
    print(seq, flush=True)
"""


def test_a_killed_writer_loses_one_frame_at_most(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing: all frames but the last that it said to have written are there."""
    root = Path(__file__).parents[2]
    for kill_after in (1, 23, 60):
        stem = tmp_path / f"{kill_after:06d}"
        command = [sys.executable, "-c", WRITE_FOR_EVER, str(stem)]
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            for line in writer.stdout:
                if int(line) >= kill_after:
                    os.kill(writer.pid, signal.SIGKILL)
                    break
            said = [kill_after, *(int(line) for line in writer.stdout)][-1]
        found = list(read_frames(stem))
        assert len(found) >= said
        assert all(np.array_equal(pixels, pixels_of(each.seq, 16)) for each, pixels in found)
        assert len([m for m in read_messages(stem) if m.topic == "tracks/a"]) > said


class Tapper:
    """The recorder on a thread, and the track worker's ends of its tap."""

    def __init__(self, room: Path, max_bytes: int = 10**9, live: bool = True, slots: int = 4) -> None:
        self.ring, self.live, self.seq = FrameRing(slots), live, 0
        self.run = new_run(room)
        out, self.out = Pipe(duplex=False)
        self.back, back = Pipe(duplex=False)
        self.reports, reports = Pipe(duplex=False)
        self.others_ends = out, back, reports  # open as long as ours
        config = RecordWorkerConfig(("a",), room, self.run, max_bytes, 0)
        self.thread = threading.Thread(target=record.main, args=(config, [self.ring], out, back, reports), daemon=True)
        self.thread.start()
        assert isinstance(self.next(self.reports), Ready)

    def next(self, connection: object) -> object:
        assert connection.poll(20), "nothing came"
        return receive(connection)

    def tap(self, bits: int = 8, skipped: int = 0, step_ns: int = 33_000_000, there: bool = True) -> None:
        """Give the recorder the next frame, or say so while its slot has another, and wait until it has read it."""
        pixels = pixels_of(self.seq, bits)
        np.copyto(self.ring.frame(0, HEIGHT, WIDTH, bits), pixels)
        self.ring.mark(0, self.seq if there else self.seq + 4, bits, 0.0, 255.0)
        frame = FrameRef(
            0, 0, self.seq, WIDTH, HEIGHT, bits, self.live, 0.0, 255.0, self.seq * step_ns, self.seq, None, {}, {}, None
        )
        send(self.out, Tapped(frame, self.seq * step_ns, [message_of(self.seq)], skipped))
        assert self.next(self.back) == Returned(0, 0, self.seq)
        self.ring.frame(0, HEIGHT, WIDTH, bits).fill(0)  # it is capture's again
        self.seq += 1

    def end(self) -> tuple[int, dict[str, int]]:
        """Close the tap; return the frames recorded, and those not, by reason."""
        send(self.out, TapEnd(0, 0))
        send(self.out, Stop())
        self.thread.join(30)
        assert not self.thread.is_alive()
        frames, dropped = 0, {}
        while self.reports.poll(0):
            said = receive(self.reports)
            assert isinstance(said, Recorded)
            frames += said.frames
            for reason, count in said.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        return frames, dropped

    def read(self) -> list[tuple[FrameRecord, np.ndarray]]:
        return [found for stem in segments(self.run / "a") for found in read_frames(stem)]


@pytest.fixture(autouse=True)
def _as_nice_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "setpriority", lambda *_: None)


@pytest.mark.parametrize("live", [True, False])
def test_the_recorder_keeps_what_comes_out_of_the_tap(live: bool, tmp_path: Path) -> None:
    """A new segment begins where the depth changes; pixels are read before their slot is given back."""
    tapper = Tapper(tmp_path, live=live)
    for bits in (8, 8, 16, 16, 8):
        tapper.tap(bits)
    assert tapper.end() == (5, {})
    assert [each.bits for each, _ in tapper.read()] == [8, 8, 16, 16, 8]
    assert len(segments(tapper.run / "a")) == 3
    assert all(np.array_equal(pixels, pixels_of(each.seq, each.bits)) for each, pixels in tapper.read())


@pytest.mark.parametrize("live", [True, False])
def test_a_slot_that_capture_has_filled_anew_is_not_recorded_as_the_frame_that_was_there(
    live: bool, tmp_path: Path
) -> None:
    """The tracker that lent it was killed: the one that took its place knew of no slots to wait for."""
    tapper = Tapper(tmp_path, live=live)
    for there in (True, False, True):
        tapper.tap(there=there)
    assert tapper.end() == (2, {"restart": 1})
    assert [each.seq for each, _ in tapper.read()] == [0, 2]


def test_a_segment_is_a_minute_at_most(tmp_path: Path) -> None:
    """Five frames 25 s apart are two segments."""
    tapper = Tapper(tmp_path)
    for _ in range(5):
        tapper.tap(step_ns=25_000_000_000)
    tapper.end()
    counts = [len(list(read_records(stem))) for stem in segments(tapper.run / "a")]
    assert counts == [3, 2]


def test_the_oldest_segments_leave_to_keep_the_bound(tmp_path: Path) -> None:
    """A room of 200 kB never holds more, over two runs; the frames of its end are all there, the first run is gone."""
    bound = 200_000

    def size() -> int:
        return sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())

    first = Tapper(tmp_path, bound, live=False)
    for _ in range(20):
        first.tap(16)
    assert first.end()[0] == 20
    second = Tapper(tmp_path, bound, live=False)
    for _ in range(150):
        second.tap(16)
        assert size() <= bound * 1.05  # MCAP's own summary comes on top when a segment is closed
    assert second.end() == (150, {})
    seqs = [each.seq for each, _ in second.read()]
    assert 20 < len(seqs) < 150
    assert seqs == list(range(150 - len(seqs), 150))
    assert not first.run.exists()


def test_the_oldest_leave_though_the_clock_was_set_back(tmp_path: Path) -> None:
    """What is on disk when it is set back seems to be of the future, and is older than all that comes."""
    tapper = Tapper(tmp_path, 200_000, live=False)
    for number in range(150):
        if number == 60:
            for path in tmp_path.rglob("*.mcap"):
                os.utime(path, (time.time() + 86_400,) * 2)
        tapper.tap(16)
    tapper.end()
    seqs = [each.seq for each, _ in tapper.read()]
    assert 20 < len(seqs) < 90
    assert seqs == list(range(150 - len(seqs), 150))


def test_live_frames_that_come_too_fast_are_counted_and_keep_their_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk is stuck, slots are given back at once; every frame is recorded or counted with its reason."""
    stuck = threading.Event()
    add = SegmentWriter.add
    monkeypatch.setattr(SegmentWriter, "add", lambda *arguments: (stuck.wait(30), add(*arguments)))
    tapper = Tapper(tmp_path)
    for _ in range(50):
        tapper.tap()
    stuck.set()
    frames, dropped = tapper.end()
    assert dropped == {"recorder too slow": 50 - frames}
    assert 2 <= frames < 50
    (stem,) = segments(tapper.run / "a")
    assert [each.seq for each in read_records(stem)] == list(range(50))
    assert all(np.array_equal(pixels, pixels_of(each.seq, 8)) for each, pixels in read_frames(stem))


@pytest.mark.parametrize("live", [True, False])
def test_a_full_disk_ends_the_recording_and_not_the_run(
    live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line says so; slots go on being given back and frames being counted.

    Live frames come as fast as their slots are back: on a busy machine some are not recorded for that alone.
    """

    met = threading.Event()

    def full(*_: object) -> None:
        met.set()
        raise OSError(28, "No space left on device")

    tapper = Tapper(tmp_path, live=live)
    tapper.tap()
    end = time.monotonic() + 60
    while not tapper.read():
        assert time.monotonic() < end
        tapper.tap()  # a frame is readable once the next has come
    before = tapper.seq
    monkeypatch.setattr(SegmentWriter, "add", full)
    while not met.is_set():
        assert time.monotonic() < end
        tapper.tap()
    for _ in range(3):
        tapper.tap()
    frames, dropped = tapper.end()
    assert 1 <= frames <= before
    assert frames + sum(dropped.values()) == tapper.seq
    assert dropped["no space left on device"] >= (1 if live else 3)
    assert dropped.keys() <= {"no space left on device", *(["recorder too slow"] if live else [])}
    (line,) = capfd.readouterr().err.splitlines()  # once: what is written while it reads is lost
    assert "no space left on device; it is not recorded any more" in line


def test_frames_that_went_past_are_counted(tmp_path: Path) -> None:
    """What the tap skipped while the recorder did not answer is in its books."""
    tapper = Tapper(tmp_path)
    tapper.tap(skipped=7)
    assert tapper.end() == (1, {"recorder did not answer": 7})


def test_a_recorder_that_is_started_again_goes_on_in_a_new_segment(tmp_path: Path) -> None:
    """The second recorder in a run's folder overwrites nothing."""
    tapper = Tapper(tmp_path)
    tapper.tap()
    tapper.end()
    config = RecordWorkerConfig(("a",), tmp_path, tapper.run, 10**9, 0)
    room = record._Room(config)
    assert room.new_segment("a").stem.name == "000002"


def test_the_streams_of_a_recording_are_found(tmp_path: Path) -> None:
    """By the folder of a run, of a stream, or of the recordings if there is one; else a line says what to name."""
    with pytest.raises(RecordingError, match="no such folder"):
        find_streams(tmp_path / "gone")
    with pytest.raises(RecordingError, match="no recording in it"):
        find_streams(tmp_path)
    tapper = Tapper(tmp_path)
    tapper.tap()
    tapper.end()
    for folder in (tmp_path, tapper.run, tapper.run / "a"):
        assert find_streams(folder) == {"a": tapper.run / "a"}
    second = Tapper(tmp_path)
    second.tap()
    second.end()
    with pytest.raises(RecordingError, match=f"2 recordings in it; name one of them: .*{second.run.name}"):
        find_streams(tmp_path)


def test_a_hostile_video_in_a_recording_fetches_nothing_and_claims_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A playlist in place of the video, and frames of more pixels than a frame may have: no frame is read."""
    writer = SegmentWriter(tmp_path / "000001", "a", 0)
    for seq in range(3):
        writer.add(frame_record(seq), pixels_of(seq, 8), [])
    writer.close()
    assert len(list(read_frames(tmp_path / "000001"))) == 3
    monkeypatch.setattr("stream.record.MAX_PIXELS", WIDTH * HEIGHT - 1)
    assert list(read_frames(tmp_path / "000001")) == []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n"
        (tmp_path / "000001.mkv").write_text(playlist)
        assert list(read_frames(tmp_path / "000001")) == []
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    """A file of another kind is named; nothing is guessed from it."""
    (tmp_path / "000001.mcap").write_bytes(b"no recording" * 20)
    with pytest.raises(RecordingError, match=r"000001\.mcap: not a recording's MCAP file"):
        list(read_messages(tmp_path / "000001"))
