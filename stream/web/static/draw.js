// Drawing: a frame with its tracks, a zoom on one of them, latency over time.

export const COLOURS = { confirmed: "#5fd7b0", coasting: "#f0b75a", tentative: "#8ea3b8", p99: "#d79be8" };
const AHEAD_S = 0.5; // what the line of a velocity stands for
const TAIL_MS = 3000;
const ZOOM_PX = 48; // of the frame, across the zoom

/** Remember where the tracks of a frame are, and forget what is older than a tail. */
export function extendTails(tails, frame) {
  const now = Number(BigInt(frame.captured_utc_ns) / 1000000n);
  if (tails.seq !== undefined && frame.seq < tails.seq) tails.byId.clear(); // another run
  tails.seq = frame.seq;
  for (const track of frame.tracks) {
    const tail = tails.byId.get(track.id) ?? [];
    if (tail.at(-1)?.seq !== frame.seq) tail.push({ at: now, seq: frame.seq, x: track.x, y: track.y });
    tails.byId.set(track.id, tail);
  }
  for (const [id, tail] of tails.byId) {
    while (tail.length && now - tail[0].at > TAIL_MS) tail.shift();
    if (!tail.length) tails.byId.delete(id);
  }
}

/** Give a canvas as many pixels as its place has on the screen. */
export function fitCanvas(canvas, ratio) {
  const width = Math.round(canvas.clientWidth * devicePixelRatio);
  const height = Math.round(ratio ? width / ratio : canvas.clientHeight * devicePixelRatio);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
}

/** Draw a frame and its tracks; a position is in pixels from the centre of the frame's top left pixel. */
export function drawFrame(canvas, shown, tails, look) {
  const { frame, bitmap } = shown;
  fitCanvas(canvas, frame.width / frame.height);
  const context = canvas.getContext("2d");
  drawGround(context, { x: 0, y: 0, width: frame.width, height: frame.height }, shown, look, true);
  const scale = canvas.width / frame.width;
  for (const track of frame.tracks) {
    if (track.state === "tentative" && !look.tentative) continue;
    const place = (p) => [(p.x + 0.5) * scale, (p.y + 0.5) * scale];
    drawTrack(context, track, tails.byId.get(track.id) ?? [], place, scale, look, track.id === look.chosen);
  }
  if (!bitmap && !frame.pictures) note(context, "no pictures", ": the pipeline runs on another host or as another user");
}

/** Draw the neighbourhood of one track, enlarged, each pixel of the frame a square. */
export function drawZoom(canvas, shown, id, tails, look) {
  fitCanvas(canvas);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  const track = shown?.frame.tracks.find((each) => each.id === id);
  const centre = track ?? tails?.byId.get(id)?.at(-1);
  if (!centre) return;
  const width = ZOOM_PX, height = (ZOOM_PX * canvas.height) / canvas.width;
  const area = { x: centre.x + 0.5 - width / 2, y: centre.y + 0.5 - height / 2, width, height };
  drawGround(context, area, shown, look, false);
  const scale = canvas.width / width;
  const place = (p) => [(p.x + 0.5 - area.x) * scale, (p.y + 0.5 - area.y) * scale];
  if (track) drawTrack(context, track, tails.byId.get(id) ?? [], place, scale, { ...look, labels: false }, true);
}

function drawGround(context, area, shown, look, smooth) {
  const { frame, bitmap } = shown;
  const { width, height } = context.canvas;
  context.fillStyle = "#05070a";
  context.fillRect(0, 0, width, height);
  if (!bitmap) return grid(context, area, frame);
  const perX = bitmap.width / frame.width, perY = bitmap.height / frame.height;
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  const picture = look.contrast && frame.layer === "frame" ? stretch(bitmap) : bitmap; // of a target map greys are probabilities
  context.drawImage(picture, area.x * perX, area.y * perY, area.width * perX, area.height * perY, 0, 0, width, height);
}

const STEEPEST = 8;
const spread = { context: document.createElement("canvas").getContext("2d", { willReadFrequently: true }), of: null };

/** Return a picture with its greys, but for its darkest and brightest hundredths, spread from black to white. */
function stretch(bitmap) {
  const { context } = spread, { canvas } = context;
  if (spread.of === bitmap) return canvas; // the zoom's, after the frame's
  spread.of = bitmap;
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  context.drawImage(bitmap, 0, 0);
  const picture = context.getImageData(0, 0, canvas.width, canvas.height), { data } = picture;
  const counts = new Uint32Array(256);
  for (let i = 0; i < data.length; i += 4) counts[data[i]]++;
  const [low, high] = [0.01, 0.99].map((share) => {
    let left = (share * data.length) / 4;
    return counts.findIndex((count) => (left -= count) < 0);
  });
  const slope = Math.min(STEEPEST, 255 / Math.max(high - low, 1));
  for (let i = 0; i < data.length; i += 4) data[i] = data[i + 1] = data[i + 2] = slope * (data[i] - low); // the array clamps
  context.putImageData(picture, 0, 0);
  return canvas;
}

function grid(context, area, frame) {
  const scale = context.canvas.width / area.width;
  context.strokeStyle = "#141c23";
  context.lineWidth = 1;
  context.beginPath();
  for (let x = 32; x < frame.width; x += 32) line(context, (x - area.x) * scale, 0, (x - area.x) * scale, context.canvas.height);
  for (let y = 32; y < frame.height; y += 32) line(context, 0, (y - area.y) * scale, context.canvas.width, (y - area.y) * scale);
  context.stroke();
}

function line(context, x0, y0, x1, y1) {
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
}

function drawTrack(context, track, tail, place, scale, look, chosen) {
  const colour = COLOURS[track.state] ?? COLOURS.tentative;
  const [x, y] = place(track);
  const pen = devicePixelRatio * (chosen ? 2 : 1.5);
  const half = Math.max(9 * devicePixelRatio, 4 * scale); // the corners leave the target free
  context.lineWidth = pen;
  context.lineJoin = context.lineCap = "round";
  context.strokeStyle = colour;
  if (track.state !== "tentative") {
    context.globalAlpha = 0.55;
    context.lineWidth = pen * 0.8;
    context.beginPath();
    tail.forEach((p, i) => (i ? context.lineTo(...place(p)) : context.moveTo(...place(p))));
    context.stroke();
    const ahead = place({ x: track.x + track.vx * AHEAD_S, y: track.y + track.vy * AHEAD_S });
    const length = Math.hypot(ahead[0] - x, ahead[1] - y);
    if (length > half) {
      context.globalAlpha = 0.9;
      const share = half / length;
      context.beginPath();
      line(context, x + (ahead[0] - x) * share, y + (ahead[1] - y) * share, ...ahead);
      context.stroke();
      context.beginPath();
      context.arc(...ahead, pen * 1.3, 0, 7);
      context.fillStyle = colour;
      context.fill();
    }
  }
  context.globalAlpha = track.state === "tentative" ? 0.6 : 1;
  context.lineWidth = pen;
  context.setLineDash(track.state === "coasting" ? [pen * 1.5, pen * 2] : []);
  const arm = track.state === "tentative" ? half * 0.35 : half * 0.6;
  context.beginPath();
  for (const [sx, sy] of [[-1, -1], [1, -1], [1, 1], [-1, 1]]) {
    context.moveTo(x + sx * half, y + sy * (half - arm));
    context.lineTo(x + sx * half, y + sy * half);
    context.lineTo(x + sx * (half - arm), y + sy * half);
  }
  context.stroke();
  context.setLineDash([]);
  context.globalAlpha = 1;
  if (look.labels && track.state !== "tentative") {
    const below = track.vx * track.vy < 0; // what lies ahead or behind takes the upper right corner
    label(context, `${track.id}`, x + half + 4 * devicePixelRatio, y + (below ? half : -half), colour, chosen);
  }
}

function label(context, text, x, y, colour, chosen) {
  context.font = `${chosen ? 700 : 600} ${12 * devicePixelRatio}px ui-monospace, "DejaVu Sans Mono", monospace`;
  const width = context.measureText(text).width;
  x = Math.min(x, context.canvas.width - width - 2 * devicePixelRatio);
  y = Math.max(y, 10 * devicePixelRatio);
  context.lineWidth = 3 * devicePixelRatio;
  context.strokeStyle = "#05070acc";
  context.textBaseline = "middle";
  context.strokeText(text, x, y);
  context.fillStyle = colour;
  context.fillText(text, x, y);
}

function note(context, text, more) {
  context.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
  context.fillStyle = "#55646f";
  context.textBaseline = "alphabetic";
  if (context.measureText(text + more).width < context.canvas.width - 20 * devicePixelRatio) text += more;
  context.fillText(text, 10 * devicePixelRatio, context.canvas.height - 10 * devicePixelRatio);
}

/** Draw p50 and p99 of each second; a point is [UTC seconds, p50, p99, frames]. */
export function drawChart(canvas, points, span) {
  fitCanvas(canvas);
  const context = canvas.getContext("2d"), { width, height } = canvas, dpr = devicePixelRatio;
  context.clearRect(0, 0, width, height);
  const seen = points.filter((point) => point[2] !== null);
  const top = round(Math.max(1, ...seen.map((point) => point[2])));
  const left = 34 * dpr, bottom = height - 16 * dpr, end = points.at(-1)?.[0] ?? 0;
  const long = Math.max(60, Math.min(span, end - (points[0]?.[0] ?? 0)));
  const place = (at, value) => [left + (width - left) * (1 - (end - at) / long), bottom - (bottom - 6 * dpr) * (value / top)];
  context.font = `${10.5 * dpr}px ui-monospace, "DejaVu Sans Mono", monospace`;
  context.lineWidth = dpr;
  context.textBaseline = "middle";
  for (const value of [0, top / 2, top]) {
    const [, y] = place(end, value);
    context.strokeStyle = "#202a33";
    context.beginPath();
    line(context, left, y, width, y);
    context.stroke();
    context.fillStyle = "#8495a5";
    context.textAlign = "right";
    context.fillText(`${value}`, left - 6 * dpr, y);
  }
  context.textAlign = "left";
  context.fillText(`ms, ${long >= 90 ? `${Math.round(long / 60)} min` : `${long} s`} ago`, left, height - 6 * dpr);
  context.textAlign = "right";
  context.fillText("now", width, height - 6 * dpr);
  context.textAlign = "left";
  for (const [index, colour] of [[2, COLOURS.p99], [1, COLOURS.confirmed]]) {
    context.strokeStyle = colour;
    context.lineWidth = 1.5 * dpr;
    context.lineJoin = "round";
    context.beginPath();
    let before = null;
    for (const point of points) {
      if (point[index] !== null) before === null ? context.moveTo(...place(point[0], point[index])) : context.lineTo(...place(point[0], point[index]));
      before = point[index];
    }
    context.stroke();
  }
}

function round(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((step) => step * unit).find((step) => step >= value);
}
