"""The page in a real browser: what is drawn is where the tracks are, and it outlives its pipeline."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

LIMIT_MS = 20_000
GREEN, AMBER = "g - r > 25", "r - b > 25"  # even where a line covers a part of a pixel

# The middle of all that a test of a pixel's colour finds on a stream's canvas, as shares of its sides, and how much.
MIDDLE = """([name, test]) => {
  const canvas = irstream.streams.get(name).tile.canvas, found = new Function("r", "g", "b", `return ${test}`);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0, x = 0, y = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (!found(data[i], data[i + 1], data[i + 2])) continue;
    count++;
    x += (i / 4) % canvas.width;
    y += Math.floor(i / 4 / canvas.width);
  }
  return { count, x: (x / count + 0.5) / canvas.width, y: (y / count + 0.5) / canvas.height };
}"""
GREY = """(x) => { const c = irstream.streams.get("sky").tile.canvas;
  return c.getContext("2d").getImageData(x * c.width, 10, 1, 1).data[0]; }"""
SHOWN = "([name, seq]) => irstream.streams.get(name)?.shown?.frame.seq === seq"


@pytest.fixture
def page(browser: Any, view: Callable[..., Any]) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1000, "height": 700})
    opened.set_default_timeout(LIMIT_MS)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.goto(view().url)
    yield opened
    opened.close()
    assert problems == []


def begin(pipeline: Any, page: Any, *streams: str, ring: bool = True) -> None:
    """Have the server and the page know the streams."""
    names = streams or ("sky",)
    pipeline.wait_for("status/")
    pipeline.send(*(pipeline.status(name, **({} if ring else {"ring": ""})) for name in names))
    pipeline.wait_for("tracks/")
    page.wait_for_function("(n) => irstream.streams.size === n", arg=len(names))


def show(page: Any, frame: Callable[[], Any]) -> Any:
    """Send frames until the page shows one; return its message."""
    for _ in range(40):
        message = frame()
        with suppress(sys.modules["playwright.sync_api"].TimeoutError):
            page.wait_for_function(SHOWN, arg=[message.stream, message.seq], timeout=500)
            page.evaluate("() => new Promise(requestAnimationFrame)")
            return message
    raise AssertionError("no frame was shown")


def test_a_track_is_drawn_where_its_message_says(page: Any, pipeline: Any) -> None:
    """Positions count from the centre of the top left pixel: half a pixel more from the picture's corner."""
    begin(pipeline, page, ring=False)
    page.keyboard.press("l")  # without its number, what is drawn of a track that stands still is symmetric
    for x, y, state, colour in ((20.0, 30.0, "confirmed", GREEN), (40.25, 12.5, "coasting", AMBER)):
        tracks = [pipeline.track(id=round(y), x=x, y=y, state=state)]
        show(page, lambda tracks=tracks: pipeline.frame(tracks=tracks))
        found = page.evaluate(MIDDLE, ["sky", colour])
        assert found["count"] > 20
        assert found["x"] * pipeline.width == pytest.approx(x + 0.5, abs=0.15)
        assert found["y"] * pipeline.height == pytest.approx(y + 0.5, abs=0.15)


def test_the_picture_is_the_frame_of_the_tracks(page: Any, pipeline: Any) -> None:
    """The target's pixel in the ring, and in its target map, is the bright place on the screen."""
    begin(pipeline, page)
    for layer in ("frame", "targets"):
        show(page, lambda: pipeline.frame(tracks=[]))
        page.wait_for_function("(layer) => irstream.streams.get('sky').shown.frame.layer === layer", arg=layer)
        found = page.evaluate(MIDDLE, ["sky", "r > 150"])
        assert found["count"] > 4
        assert found["x"] * pipeline.width == pytest.approx(20.5, abs=0.3)
        assert found["y"] * pipeline.height == pytest.approx(30.5, abs=0.3)
        page.keyboard.press("t")


def test_more_contrast_spreads_the_greys_of_a_dark_picture(page: Any, pipeline: Any) -> None:
    """Two greys that are hardly told apart become black and nearly white; a fixed factor would make both black."""
    pipeline.ground = np.where(np.arange(pipeline.width) < pipeline.width / 2, 12, 44)
    begin(pipeline, page)
    show(page, lambda: pipeline.frame(tracks=[]))
    page.keyboard.press("c")
    assert page.evaluate(GREY, 0.2) < 20
    assert page.evaluate(GREY, 0.8) > 200


def test_more_contrast_keeps_neighbouring_greys_of_a_bright_picture_apart(page: Any, pipeline: Any) -> None:
    """Eight greys in a row, each a block of a JPEG wide: eight times as far from one another, as steep as it gets."""
    pipeline.ground = 200 + np.arange(pipeline.width) // 8
    begin(pipeline, page)
    show(page, lambda: pipeline.frame(tracks=[]))
    page.keyboard.press("c")
    greys = [page.evaluate(GREY, (index + 0.5) / 8) for index in range(8)]
    assert greys == pytest.approx([8 * index for index in range(8)], abs=1)


def test_more_contrast_leaves_the_target_map_alone(page: Any, pipeline: Any) -> None:
    """Its greys are probabilities: 1/8 must not look certain because nearly all else is 0."""
    pipeline.likely = 32
    begin(pipeline, page)
    page.keyboard.press("t")
    page.keyboard.press("c")
    show(page, lambda: pipeline.frame(tracks=[]))
    page.wait_for_function("() => irstream.streams.get('sky').shown.frame.layer === 'targets'")
    assert page.evaluate(MIDDLE, ["sky", "r > 12"])["count"] > 4
    assert page.evaluate(MIDDLE, ["sky", "r > 48"])["count"] == 0


def test_a_browser_without_offscreen_canvas_shows_the_picture(page: Any, pipeline: Any) -> None:
    page.add_init_script("delete window.OffscreenCanvas")
    page.reload()
    begin(pipeline, page)
    show(page, pipeline.frame)
    page.keyboard.press("c")
    show(page, pipeline.frame)


def test_the_other_layer_is_not_to_be_had_while_the_view_is_paused(page: Any, pipeline: Any) -> None:
    """The frame that stands still is here as one layer alone; a lit button would be of another picture."""
    begin(pipeline, page)
    show(page, pipeline.frame)
    button = page.locator("[data-key='t']")
    page.keyboard.press("Space")
    assert button.is_disabled()
    page.keyboard.press("t")
    assert button.get_attribute("aria-pressed") == "false"
    page.keyboard.press("Space")
    page.keyboard.press("t")
    assert button.get_attribute("aria-pressed") == "true"


def test_a_layer_that_had_not_come_when_the_view_was_paused_is_not_lit(page: Any, pipeline: Any) -> None:
    begin(pipeline, page)
    show(page, pipeline.frame)
    page.evaluate("""() => ["t", " "].forEach((key) => dispatchEvent(new KeyboardEvent("keydown", { key })))""")
    page.wait_for_selector("#summary >> text=paused")
    assert page.locator("[data-key='t']").get_attribute("aria-pressed") == "false"


def test_one_stream_is_shown_with_its_figures_and_a_zoom_on_a_track(page: Any, pipeline: Any) -> None:
    begin(pipeline, page)
    show(page, pipeline.frame)
    page.keyboard.press("n")
    page.wait_for_selector("#tracks tr[aria-selected='true'] >> text=confirmed")
    centre = "() => [...zoom.getContext('2d').getImageData(zoom.width / 2, zoom.height / 2, 1, 1).data]"
    assert min(page.evaluate(centre)) > 200  # the bright pixel is in the middle of the zoom
    pipeline.send(pipeline.status(dropped={"superseded": 3}, restarts={"track died": 1}))
    page.wait_for_selector("#drops >> text=dropped: superseded")
    page.wait_for_selector("#drops >> text=restarted: track died")
    page.wait_for_function("() => Math.abs(parseFloat(p50.textContent) - 12) < 0.2")


@pytest.mark.parametrize(
    ("streams", "size", "screen"),
    [
        (4, (64, 48), (1000, 700)),
        (9, (64, 48), (1440, 900)),
        (12, (64, 48), (1920, 1080)),
        (4, (320, 256), (1920, 1080)),  # tiles of more than 420 px, whose captions take one line
        (6, (640, 512), (1440, 900)),
        (9, (320, 256), (2560, 1440)),
    ],
)
def test_a_wall_of_streams_fits_the_screen(
    page: Any, pipeline: Any, streams: int, size: tuple[int, int], screen: tuple[int, int]
) -> None:
    page.set_viewport_size({"width": screen[0], "height": screen[1]})
    names = [f"north-gate-{index:02d}" for index in range(streams)]
    begin(pipeline, page, *names, ring=False)
    for name in names:
        pipeline.send(pipeline.tracks(stream=name, width=size[0], height=size[1], dropped={"superseded": 1234}))
    known = "(w) => [...irstream.streams.values()].every((each) => each.said.size?.[0] === w && each.said.p50 !== null)"
    page.wait_for_function(known, arg=size[0])
    assert page.evaluate("[tiles.scrollHeight - tiles.clientHeight, tiles.scrollWidth - tiles.clientWidth]") == [0, 0]


def test_a_phone_on_its_side_shows_the_whole_picture(page: Any, pipeline: Any) -> None:
    """It scrolls to the figures, not to the other half of the picture; upright the picture is as wide as the screen."""
    begin(pipeline, page)
    show(page, pipeline.frame)
    page.set_viewport_size({"width": 844, "height": 390})
    page.wait_for_function("() => document.querySelector('.tile').getBoundingClientRect().bottom <= 390")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("() => document.querySelector('.tile').clientWidth > 360")


def test_sixteen_streams_are_shown_and_the_keys_choose_one_and_pause(page: Any, pipeline: Any) -> None:
    begin(pipeline, page, *(f"cam-{index:02d}" for index in range(16)), ring=False)
    tiles = "(n) => document.querySelectorAll('.tile').length === n"
    page.wait_for_function(tiles, arg=16)
    page.keyboard.press("3")
    page.wait_for_function("() => irstream.one === 'cam-02'")
    page.wait_for_function(tiles, arg=1)
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => irstream.one === 'cam-03'")
    page.keyboard.press("Escape")
    page.wait_for_function(tiles, arg=16)
    page.keyboard.press("Space")
    page.wait_for_selector("#summary >> text=paused")


def test_the_page_waits_for_a_pipeline_and_goes_on_when_it_comes_back(page: Any, pipeline: Any) -> None:
    page.wait_for_selector("#empty >> text=Waiting for a pipeline")
    begin(pipeline, page)
    show(page, pipeline.frame)
    pipeline.close()
    page.wait_for_selector("#summary >> text=gone away")
    pipeline.bind(pipeline.endpoint)
    pipeline.wait_for("tracks/")
    pipeline.send(pipeline.status())
    page.wait_for_selector("#summary >> text=all well")
    show(page, pipeline.frame)


def test_the_page_connects_again_to_a_server_that_comes_back(
    browser: Any, view: Callable[..., Any], pipeline: Any, unused_port: int
) -> None:
    address = f"127.0.0.1:{unused_port}"
    first = view(address=address)
    page = browser.new_page()
    page.goto(first.url)
    page.wait_for_function("() => irstream.open", timeout=LIMIT_MS)
    begin(pipeline, page)
    first.close()
    page.wait_for_selector("#summary >> text=no connection", timeout=LIMIT_MS)
    page.wait_for_selector(".tile.off >> text=/^. frames/", timeout=LIMIT_MS)  # what was said holds no longer
    view(address=address)
    page.wait_for_function("() => irstream.open", timeout=LIMIT_MS)
    page.close()


def test_beyond_loopback_the_token_goes_from_the_address_into_a_cookie(browser: Any, view: Callable[..., Any]) -> None:
    url = view(address="0.0.0.0:0").url
    token = url.partition("?token=")[2]
    here = f"http://127.0.0.1:{url.partition('/?')[0].rpartition(':')[2]}/"
    page = browser.new_page()
    assert page.goto(here).status == 403
    page.goto(f"{here}?token={token}")
    assert page.url == here
    page.wait_for_function("() => irstream.open", timeout=LIMIT_MS)
    page.close()
