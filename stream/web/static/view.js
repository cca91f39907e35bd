// The live view: what the server says, the layout, and the keys.

import { drawChart, drawFrame, drawZoom, extendTails } from "./draw.js";

const RETRY_MS = 1000;
const GAP_PX = 12, SMALL_PX = 420, BRIEF_PX = 620;
const STAGE_COLOURS = ["#4d6478", "#6d8aa3", "#9cc3e6", "#7fa6c9", "#5f7d96", "#42586a"];
const UNKNOWN = { x: 4, y: 3 }; // the shape of a tile whose frames are not known yet

const $ = (id) => document.getElementById(id);
const look = { labels: true, contrast: false, tentative: true, chosen: null };
const view = { socket: null, open: false, state: null, streams: new Map(), one: null, picked: false, layer: "frame", paused: false };
window.irstream = view; // for those who look under the bonnet, and the tests

function connect() {
  const secure = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = (view.socket = new WebSocket(`${secure}//${location.host}/live`));
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    view.open = true;
    say({ layer: view.layer });
    layout();
  };
  socket.onmessage = ({ data }) => (typeof data === "string" ? hear(JSON.parse(data)) : receive(data));
  socket.onclose = () => {
    view.open = false;
    summarise();
    for (const each of view.streams.values()) caption(each);
    if (view.one) side();
    setTimeout(connect, RETRY_MS);
  };
}

function say(message) {
  if (view.open) view.socket.send(JSON.stringify(message));
}

function stream(name) {
  if (!view.streams.has(name)) view.streams.set(name, { name, points: [], tails: { byId: new Map() }, shown: null, tile: makeTile(name) });
  return view.streams.get(name);
}

function hear(message) {
  if (message.kind === "history") {
    for (const [name, points] of Object.entries(message.streams)) stream(name).points = points;
    return;
  }
  view.state = message;
  const names = message.streams.map((each) => each.name);
  const before = [...view.streams.keys()].join("\n");
  for (const said of message.streams) {
    const each = stream(said.name);
    each.said = said;
    if (said.point && said.point[0] !== each.points.at(-1)?.[0]) each.points.push(said.point);
    while (each.points.length > message.span_s) each.points.shift();
  }
  for (const name of view.streams.keys()) {
    if (names.includes(name)) continue;
    view.streams.get(name).tile.root.remove();
    view.streams.delete(name);
  }
  if (!view.picked) view.one = names.length === 1 ? names[0] : null; // one stream needs no overview
  else if (view.one && !view.streams.has(view.one)) view.one = null;
  const sizes = message.streams.map((each) => each.size?.join("x")).join();
  if (before !== [...view.streams.keys()].join("\n") || sizes !== view.sizes) layout();
  view.sizes = sizes;
  summarise();
  for (const each of view.streams.values()) caption(each);
  if (view.one) side();
}

async function receive(data) {
  const length = new DataView(data).getUint32(0, true);
  const frame = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const picture = new Uint8Array(data, 4 + length);
  const each = view.streams.get(frame.stream);
  try {
    const bitmap = picture.length ? await createImageBitmap(new Blob([picture])) : null;
    if (!each || view.paused || (frame.layer && frame.layer !== view.layer)) return bitmap?.close();
    each.shown?.bitmap?.close();
    each.shown = { frame, bitmap };
    extendTails(each.tails, frame);
    each.dirty = true;
  } finally {
    await new Promise(requestAnimationFrame); // drawn, or as good as: only now the next may come
    if (each?.dirty) draw(each);
    say({ drawn: frame.stream });
  }
}

function draw(each) {
  each.dirty = false;
  if (!each.shown || !each.tile.root.isConnected) return;
  if (each.name === view.one && !each.tails.byId.has(look.chosen)) look.chosen = null; // long gone
  drawFrame(each.tile.canvas, each.shown, each.tails, { ...look, chosen: each.name === view.one ? look.chosen : null });
  if (each.name === view.one) {
    listTracks(each);
    drawZoom($("zoom"), each.shown, look.chosen, each.tails, look);
  }
}

function makeTile(name) {
  const root = document.createElement("article");
  root.className = "tile";
  root.tabIndex = 0;
  const canvas = document.createElement("canvas");
  canvas.setAttribute("aria-label", `Picture of ${name}`);
  const bar = document.createElement("div");
  bar.className = "caption";
  const picture = element("div", "picture", canvas);
  root.append(picture, bar);
  root.addEventListener("click", (event) => (view.one === name ? pickTrack(event, name) : show(name)));
  root.addEventListener("keydown", (event) => event.key === "Enter" && show(name));
  return { root, picture, canvas, bar };
}

/** Whether what was last said of a stream still holds. */
function holds(said) {
  return view.open && said.health !== "away" && said.health !== "ended";
}

function caption(each) {
  const { said, tile } = each;
  if (!said) return;
  const dropped = Object.values(said.dropped).reduce((a, b) => a + b, 0);
  const size = said.size ? `${said.size[0]}×${said.size[1]}` : "";
  const name = element("span", "name", element("i", `dot ${tone(said.health)}`), element("span", "", each.name), element("small", said.health === "ok" ? "" : "health", said.health === "ok" ? size : said.health));
  const figures = [
    figure(holds(said) ? said.fps.toFixed(1) : "–", "frames/s", "", "/s"),
    figure(holds(said) ? said.tracks : "–", said.tracks === 1 ? "track" : "tracks", "optional"),
    figure(ms(said.p50), "p50", "optional"),
    figure(ms(said.p99), "p99 ms", "", "ms"),
    figure(dropped, "dropped", dropped ? "warn" : "optional"),
  ];
  tile.bar.replaceChildren(name, ...figures);
  tile.bar.title = Object.entries(said.dropped).map(([reason, count]) => `${count} dropped: ${reason}`).join("\n");
  tile.root.classList.toggle("off", said.health === "away" || !view.open);
}

function figure(value, unit, extra = "", short = unit) {
  const units = short === unit ? [unit] : [element("span", "long", unit), element("span", "short", short)];
  return element("span", `figure ${extra}`, element("b", "", `${value}`), " ", ...units);
}

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function tone(health) {
  return health === "ok" ? "ok" : health === "ended" ? "" : health === "away" ? "bad" : "warn";
}

function ms(value) {
  return value === null || value === undefined ? "–" : value < 100 ? value.toFixed(1) : value.toFixed(0);
}

function summarise() {
  const said = view.state?.streams ?? [];
  const healths = view.open ? said.map((each) => each.health) : [];
  const count = (health) => healths.filter((each) => each === health).length;
  let text = "", mark = "ok";
  if (!view.open) [text, mark] = ["no connection, trying again", "bad"];
  else if (!said.length) [text, mark] = ["waiting for a pipeline", ""];
  else if (view.state.away) [text, mark] = count("ended") === said.length ? ["ended", ""] : ["the pipeline has gone away", "bad"];
  else {
    const unwell = [...new Set(healths)].filter((each) => each !== "ok");
    text = `${said.length} ${said.length === 1 ? "stream" : "streams"}, ${unwell.length ? unwell.map((each) => `${count(each)} ${each}`).join(", ") : "all well"}`;
    mark = unwell.length ? (unwell.every((each) => each === "ended") ? "" : "warn") : "ok";
  }
  $("summary").firstElementChild.className = `dot ${mark}`;
  $("summary").lastElementChild.textContent = view.paused ? `paused; ${text}` : text;
  $("endpoint").textContent = view.state?.endpoint ?? "";
  const empty = !view.streams.size;
  $("empty").hidden = !empty;
  $("empty").textContent = view.open ? `Waiting for a pipeline that publishes on ${view.state?.endpoint ?? "…"}` : "No connection to the server; trying again.";
  document.title = `${mark === "bad" ? "⚠ " : ""}irstream${view.one ? ` – ${view.one}` : ""}`;
}

/** Give every tile as much room as there is, and tell the server how wide each is. */
function layout() {
  const names = view.one ? [view.one] : [...view.streams.keys()];
  $("main").classList.toggle("one", Boolean(view.one));
  $("side").hidden = !view.one;
  const tiles = $("tiles"), narrow = innerWidth <= 860;
  const room = { width: tiles.clientWidth, height: tiles.clientHeight };
  const ratio = names.length ? Math.min(...names.map(shape)) : 1;
  const fits = (columns) => {
    const width = (room.width - GAP_PX * (columns - 1)) / columns, rows = Math.ceil(names.length / columns);
    return widest(width, (room.height - GAP_PX * (rows - 1)) / rows, ratio);
  };
  let columns = 1, width = room.width;
  if (narrow) {
    columns = names.length > 4 || (names.length > 1 && innerWidth > innerHeight) ? 2 : 1;
    width = (room.width - 8 * (columns - 1)) / columns;
    width = widest(width, $("main").clientHeight - 16, ratio); // a phone on its side sees all of it
  } else {
    for (let c = 1; c <= names.length; c++) if (c === 1 || fits(c) > width) [columns, width] = [c, fits(c)];
  }
  width = Math.max(120, Math.floor(width));
  tiles.style.gridTemplateColumns = `repeat(${columns}, ${width}px)`;
  tiles.replaceChildren(...names.map((name) => stream(name).tile.root));
  for (const name of names) {
    const each = stream(name);
    each.tile.root.classList.toggle("brief", width < BRIEF_PX);
    each.tile.root.classList.toggle("small", width < SMALL_PX);
    each.tile.root.classList.toggle("tiny", width < 240);
    each.tile.picture.style.aspectRatio = `${ratio}`; // the tallest's, so that captions stand in a row
    each.tile.canvas.style.width = `${Math.min(1, shape(name) / ratio) * 100}%`;
    each.tile.canvas.style.aspectRatio = `${shape(name)}`;
    each.dirty = true;
    draw(each);
    caption(each);
  }
  if (view.one) side();
  watch();
}

/** Return how wide a tile may be that has so much room; a small one's caption takes two lines, any other's one. */
function widest(width, height, ratio) {
  const wide = Math.min(width, (height - 40) * ratio);
  return wide >= SMALL_PX ? wide : Math.min(width, (height - 54) * ratio);
}

function shape(name) {
  const { said, shown } = view.streams.get(name) ?? {};
  const [width, height] = shown ? [shown.frame.width, shown.frame.height] : said?.size ?? [UNKNOWN.x, UNKNOWN.y];
  return width / height;
}

function watch() {
  const names = view.paused || document.hidden ? [] : view.one ? [view.one] : [...view.streams.keys()];
  const wide = (name) => (view.one ? 4096 : Math.ceil(stream(name).tile.canvas.clientWidth * devicePixelRatio) || 1);
  say({ watch: Object.fromEntries(names.map((name) => [name, wide(name)])) });
}

function side() {
  const each = view.streams.get(view.one), said = each?.said;
  if (!said) return;
  const unit = (value) => [ms(value), " ", element("small", "", "ms")];
  $("p50").replaceChildren(...unit(said.p50));
  $("p99").replaceChildren(...unit(said.p99));
  $("max").replaceChildren(...unit(said.max));
  $("fps").replaceChildren(holds(said) ? said.fps.toFixed(1) : "–", " ", element("small", "", "/s"));
  $("span").textContent = said.span_s < 90 ? `last ${said.span_s} s` : `last ${Math.round(said.span_s / 60)} min`;
  drawChart($("chart"), each.points, view.state.span_s);
  const stages = Object.entries(said.stages_ms);
  $("stages").replaceChildren(...stages.map(([stage, time], index) => {
    const part = element("span", "", element("b", "", `${stage} ${time.toFixed(1)}`)); // hidden where it has no room
    part.style.flex = `${Math.max(time, 0)} 0 0`;
    part.style.background = STAGE_COLOURS[index % STAGE_COLOURS.length];
    part.title = `${stage}: ${time.toFixed(2)} ms, mean of the last second`;
    return part;
  }));
  const drops = Object.entries(said.dropped).sort((a, b) => b[1] - a[1]);
  $("frames").textContent = `${said.frames} published`;
  const restarts = Object.entries(said.restarts).map(([reason, count]) => row(`restarted: ${reason}`, count));
  const dropped = drops.map(([reason, count]) => row(`dropped: ${reason}`, count));
  $("drops").tBodies[0].replaceChildren(...(dropped.length ? dropped : [none("none dropped")]), ...restarts);
}

function row(...cells) {
  return element("tr", "", ...cells.map((cell) => element("td", "", cell instanceof Node ? cell : `${cell}`)));
}

function none(text) {
  const made = element("tr", "none", element("td", "", text));
  made.firstChild.colSpan = 7;
  return made;
}

const RANK = { confirmed: 0, coasting: 1, tentative: 2 };

function tracksOf(each) {
  const tracks = (each?.shown?.frame.tracks ?? []).filter((track) => track.state !== "tentative" || look.tentative);
  return tracks.sort((a, b) => (RANK[a.state] ?? 3) - (RANK[b.state] ?? 3) || a.id - b.id);
}

function listTracks(each) {
  const tracks = tracksOf(each);
  const sure = tracks.filter((track) => track.state !== "tentative").length;
  $("tracks-title").textContent = `${sure} of frame ${each.shown.frame.seq}`;
  $("zoom").hidden = look.chosen === null;
  $("zoom-title").textContent = look.chosen === null ? "choose a track: n, or a row below" : `track ${look.chosen}${tracks.some((track) => track.id === look.chosen) ? "" : ", gone"}`;
  $("tracks").tBodies[0].replaceChildren(...(tracks.length ? tracks.map((track) => {
    const made = row(track.id, element("span", track.state, track.state), track.x.toFixed(1), track.y.toFixed(1), Math.hypot(track.vx, track.vy).toFixed(1), track.score.toFixed(1), track.age);
    made.setAttribute("aria-selected", track.id === look.chosen);
    made.dataset.id = track.id;
    return made;
  }) : [none("no track")]));
}

function show(name) {
  view.picked = true;
  if (view.one !== name) look.chosen = null;
  view.one = name;
  layout();
  summarise();
}

function choose(id) {
  look.chosen = id;
  const each = view.streams.get(view.one);
  if (each) draw(each);
}

function pickTrack(event, name) {
  const { tile, shown } = view.streams.get(name);
  if (event.target !== tile.canvas || !shown) return;
  const scale = tile.canvas.clientWidth / shown.frame.width;
  const far = (track) => Math.hypot((track.x + 0.5) * scale - event.offsetX, (track.y + 0.5) * scale - event.offsetY);
  const nearest = tracksOf(view.streams.get(name)).sort((a, b) => far(a) - far(b))[0];
  choose(nearest && far(nearest) < 40 ? nearest.id : null);
}

function step(by) {
  const names = [...view.streams.keys()];
  if (names.length) show(names[(names.indexOf(view.one) + (view.one ? by : by > 0 ? 1 : 0) + names.length) % names.length]);
}

function nextTrack(by) {
  if (!view.one && view.streams.size) show([...view.streams.keys()][0]);
  const ids = tracksOf(view.streams.get(view.one)).map((track) => track.id);
  if (ids.length) choose(ids[(ids.indexOf(look.chosen) + (look.chosen === null && by < 0 ? 0 : by) + ids.length) % ids.length]);
}

function redraw() {
  for (const each of view.streams.values()) draw(each);
}

const KEYS = {
  g: () => show(null),
  Escape: () => show(null),
  t: () => {
    if (view.paused) return; // the other layer of the frame that stands still is not here
    view.layer = view.layer === "frame" ? "targets" : "frame";
    say({ layer: view.layer });
  },
  " ": () => {
    view.paused = !view.paused;
    const standing = view.streams.get(view.one ?? [...view.streams.keys()][0])?.shown?.frame.layer;
    if (view.paused && standing && standing !== view.layer) say({ layer: (view.layer = standing) }); // the other has not come
    watch();
    summarise();
  },
  f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
  c: () => (look.contrast = !look.contrast),
  l: () => (look.labels = !look.labels),
  u: () => (look.tentative = !look.tentative),
  n: () => nextTrack(1),
  p: () => nextTrack(-1),
  ArrowRight: () => step(1),
  ArrowLeft: () => step(-1),
  "?": () => $("help").showModal(),
};

function press(key) {
  const act = /^[1-9]$/.test(key) ? () => view.streams.size >= key && show([...view.streams.keys()][key - 1]) : KEYS[key];
  if (!act) return false;
  act();
  redraw();
  document.querySelector('[data-key="t"]').setAttribute("aria-pressed", view.layer === "targets");
  document.querySelector('[data-key="t"]').disabled = view.paused;
  document.querySelector('[data-key=" "]').setAttribute("aria-pressed", view.paused);
  return true;
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (event.key === " " && event.target.tagName === "BUTTON") return; // it presses the button
  if (press(event.key)) event.preventDefault();
});
for (const button of document.querySelectorAll("nav button")) button.addEventListener("click", () => press(button.dataset.key));
$("tracks").addEventListener("click", (event) => {
  const id = event.target.closest("tr")?.dataset.id;
  if (id !== undefined) choose(Number(id));
});
addEventListener("resize", layout);
document.addEventListener("visibilitychange", watch);
summarise();
connect();
