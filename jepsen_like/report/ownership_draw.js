// Two canvases: the head (whole run, axis, faults, leaders) and the lanes that are in sight. Nothing here changes data.
const LANE = 40, HEAD = { whole: 16, axis: 18, row: 14 };
const FILLS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c6bb1", "#b8a900", "#7f7f7f"];
const INKS = ["#ffffff", "#000000", "#ffffff", "#000000", "#000000", "#ffffff", "#000000", "#ffffff"];
const BANDS = ["#7f7f7f", "#9467bd", "#8c564b", "#17becf", "#a5a615", "#e377c2", "#2ca02c", "#ff7f0e", "#1f77b4", "#d62728"];
const HATCHES = ["", "/", ".", "-", "\\", "|", "x", "+"];
const top_ = document.getElementById("top"), lanes_ = document.getElementById("lanes");
let colours = {}, hatches = new Map();

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["paper", "ink", "soft", "line", "panel", "stripe", "ok", "fail", "info", "bad", "bad-ink", "focus", "band"])
    colours[name] = style.getPropertyValue("--" + name).trim();
  hatches = new Map();
}

function hatch(kind, colour, alpha) {
  const key = kind + colour + alpha;
  if (!hatches.has(key)) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const pen = tile.getContext("2d");
    pen.strokeStyle = pen.fillStyle = colour;
    pen.globalAlpha = alpha;
    pen.lineWidth = 1.3;
    const line = (a, b, c, d) => { pen.beginPath(); pen.moveTo(a, b); pen.lineTo(c, d); pen.stroke(); };
    if ("/x".includes(kind)) { line(-2, 6, 6, -2); line(2, 10, 10, 2); }
    if ("\\x".includes(kind)) { line(2, -2, 10, 6); line(-2, 2, 6, 10); }
    if ("-+".includes(kind)) line(0, 4, 8, 4);
    if ("|+".includes(kind)) line(4, 0, 4, 8);
    if (kind === ".") { pen.fillRect(1, 1, 2, 2); pen.fillRect(5, 5, 2, 2); }
    hatches.set(key, tile.getContext("2d").createPattern(tile, "repeat"));
  }
  return hatches.get(key);
}

function fit(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = height + "px";
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  pen.textBaseline = "middle";
  return pen;
}

// A bar in the node's colour and pattern, with as much of its label as there is room for.
function nodeBar(pen, node, x, y, width, height, alpha, labels) {
  const place = Math.max(node, 0) % FILLS.length;
  pen.globalAlpha = alpha;
  pen.fillStyle = node < 0 ? colours.soft : FILLS[place];
  pen.fillRect(x, y, width, height);
  const kind = HATCHES[place];
  if (kind && node >= 0) { pen.fillStyle = hatch(kind, INKS[place], 0.45); pen.fillRect(x, y, width, height); }
  pen.globalAlpha = 1;
  const label = labels.find((each) => width > pen.measureText(each).width + 9);
  if (label === undefined || alpha < 0.4) return;
  const wide = pen.measureText(label).width;
  pen.fillStyle = node < 0 ? colours.soft : FILLS[place];
  pen.fillRect(x + 2, y + 1, wide + 5, height - 2);
  pen.fillStyle = INKS[place];
  pen.fillText(label, x + 4, y + height / 2 + 0.5);
}

const scale = (width) => {
  const per = width / (view.to - view.from);
  return (at) => (at - view.from) * per;
};

function ticks(width) {
  const rough = (view.to - view.from) / Math.max(width / 110, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((each) => each >= rough);
  const digits = Math.max(0, Math.min(6, 6 - Math.floor(Math.log10(step) + 1e-9)));
  const found = [];
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) found.push([at, (at / 1e6).toFixed(digits) + " s"]);
  return found;
}

function faultBands(pen, x, width, height) {
  for (const fault of data.faults) {
    if (!wanted.kinds[fault[0]] || fault[FAULT.to] < view.from || fault[FAULT.from] > view.to) continue;
    const left = Math.max(x(fault[FAULT.from]), 0), right = Math.min(Math.max(x(fault[FAULT.to]), left + 1), width);
    pen.globalAlpha = Number(colours.band);
    pen.fillStyle = BANDS[fault[0] % BANDS.length];
    pen.fillRect(left, 0, right - left, height);
    pen.globalAlpha = 0.55;
    pen.fillRect(left, 0, 1, height);
    pen.globalAlpha = 1;
  }
}

// -- the head ----------------------------------------------------------------------------------------------------------

const headHeight = () => HEAD.whole + HEAD.axis + HEAD.row * (data.kinds.length + 1) + 4;
const kindTop = (kind) => HEAD.whole + HEAD.axis + HEAD.row * kind;

function drawHead() {
  const width = top_.clientWidth, height = headHeight();
  const pen = fit(top_, width, height), x = scale(width), whole = (at) => (at / data.end) * width;
  pen.fillStyle = colours.panel;
  pen.fillRect(0, 0, width, HEAD.whole);
  for (const fault of data.faults) {
    pen.globalAlpha = 0.35;
    pen.fillStyle = BANDS[fault[0] % BANDS.length];
    pen.fillRect(whole(fault[FAULT.from]), 0, Math.max(whole(fault[FAULT.to] - fault[FAULT.from]), 1), HEAD.whole);
  }
  pen.globalAlpha = 1;
  pen.fillStyle = colours.bad;
  for (const { row } of data.problems) {
    const at = whole(row[0]);
    pen.beginPath(); pen.moveTo(at - 4, 0); pen.lineTo(at + 4, 0); pen.lineTo(at, row[BAD.two] ? HEAD.whole : 6); pen.fill();
  }
  pen.strokeStyle = colours.focus;
  pen.lineWidth = 2;
  pen.strokeRect(whole(view.from) + 1, 1, Math.max(whole(view.to - view.from) - 2, 2), HEAD.whole - 2);
  pen.lineWidth = 1;
  for (const [at, label] of ticks(width)) {
    pen.fillStyle = colours.line;
    pen.fillRect(Math.round(x(at)), HEAD.whole, 1, height);
    pen.fillStyle = colours.ink;
    const room = pen.measureText(label).width;
    pen.fillText(label, Math.min(x(at) + 3, width - room - 2), HEAD.whole + HEAD.axis / 2);
  }
  for (const fault of data.faults) {
    const left = Math.max(x(fault[FAULT.from]), 0), right = Math.min(Math.max(x(fault[FAULT.to]), left + 2), width);
    if (x(fault[FAULT.to]) < 0 || left > width) continue;
    const y = kindTop(fault[0]), colour = BANDS[fault[0] % BANDS.length];
    pen.globalAlpha = wanted.kinds[fault[0]] ? 0.75 : 0.2;
    pen.fillStyle = colour;
    pen.fillRect(left, y + 2, right - left, HEAD.row - 3);
    pen.globalAlpha = 1;
    const label = [data.kinds[fault[0]] + " " + fault[FAULT.nodes], data.kinds[fault[0]]].find((each) => right - left > pen.measureText(each).width + 8);
    if (label && wanted.kinds[fault[0]]) { pen.fillStyle = "#000"; pen.fillText(label, left + 4, y + HEAD.row / 2 + 1); }
  }
  for (const row of data.leaders) {
    if (row[LEADER.to] < view.from || row[LEADER.from] > view.to) continue;
    const left = Math.max(x(row[LEADER.from]), 0), right = Math.min(x(row[LEADER.to]), width), name = text(data.nodes, row[LEADER.node]);
    nodeBar(pen, row[LEADER.node], left, kindTop(data.kinds.length) + 2, Math.max(right - left, 2), HEAD.row - 1, 1, [name + " term " + row[LEADER.term], name]);
  }
}

// -- the lanes ---------------------------------------------------------------------------------------------------------

function drawLanes() {
  const box = document.getElementById("scroll"), width = lanes_.clientWidth, height = box.clientHeight;
  view.scroll = box.scrollTop;
  const pen = fit(lanes_, width, height), x = scale(width);
  const first = Math.max(Math.floor(view.scroll / LANE), 0), last = Math.min(Math.ceil((view.scroll + height) / LANE), visible.length);
  for (let place = first; place < last; place++) {
    if (place % 2) { pen.fillStyle = colours.stripe; pen.fillRect(0, place * LANE - view.scroll, width, LANE); }
  }
  faultBands(pen, x, width, Math.min(height, visible.length * LANE - view.scroll));
  pen.fillStyle = colours.line;
  for (const [at] of ticks(width)) pen.fillRect(Math.round(x(at)), 0, 1, height);
  for (let place = first; place < last; place++) drawLane(pen, visible[place], place * LANE - view.scroll, x, width);
}

function drawLane(pen, lane, y, x, width) {
  pen.fillStyle = colours.line;
  pen.fillRect(0, y + LANE - 1, width, 1);
  for (const row of lane.own) drawOwn(pen, row, y + 3, x, width);
  if (wanted.marks.data) drawData(pen, lane, y + 29, x, width);
  drawOps(pen, lane, y + 20, x);
  let labelled = -1;
  for (const bad of lane.bad.filter((each) => !each[BAD.two])) labelled = drawObjection(pen, bad, y, x, labelled);
  labelled = -1;
  for (const bad of lane.bad.filter((each) => each[BAD.two])) labelled = drawTwo(pen, bad, y, x, width, labelled);
  if (lane === view.lane) drawFocus(pen, lane, y, x, width);
}

function drawOwn(pen, row, y, x, width) {
  if (row[OWN.to] < view.from || row[OWN.from] > view.to) return;
  const left = Math.max(x(row[OWN.from]), 0), right = Math.min(Math.max(x(row[OWN.to]), left + 1), width);
  const sure = Math.min(Math.max(x(row[OWN.known]), left + 1.5), right);
  const state = text(data.states, row[OWN.state]), node = row[OWN.node];
  const dim = node >= 0 && !wanted.nodes[node];
  if (state === "TERMINATED") {
    pen.strokeStyle = colours.soft;
    pen.setLineDash([2, 3]);
    pen.beginPath(); pen.moveTo(left, y + 8); pen.lineTo(right, y + 8); pen.stroke();
    pen.setLineDash([]);
    if (right - left > 60) { pen.fillStyle = colours.paper; pen.fillRect(left + 4, y + 2, 42, 12); pen.fillStyle = colours.soft; pen.fillText("ended", left + 8, y + 8); }
    return;
  }
  const name = text(data.nodes, node), short = { ATTACHED: "", RECOVERING: " recovering", FROZEN: " frozen" }[state] ?? " " + state;
  if (right > sure) nodeBar(pen, node, sure, y + 5, right - sure, 6, dim ? 0.1 : 0.3, []);
  const thin = state === "ATTACHED" ? 0 : 3;
  nodeBar(pen, node, left, y + thin, sure - left, 16 - 2 * thin, dim ? 0.15 : 1,
    thin ? [`${name} e${row[OWN.epoch]}${short}`, `${name} e${row[OWN.epoch]}`, name] : [`${name} epoch ${row[OWN.epoch]}`, `${name} e${row[OWN.epoch]}`, name]);
  if (state === "FROZEN") { pen.strokeStyle = colours.ink; pen.setLineDash([3, 2]); pen.strokeRect(left + 0.5, y + 0.5, Math.max(sure - left - 1, 1), 15); pen.setLineDash([]); }
  if (right - left > 3) { pen.fillStyle = colours.ink; pen.fillRect(left, y, 1, 16); }
}

function drawData(pen, lane, y, x, width) {
  lane.data.forEach((bar, place) => {
    if (bar[BAR.to] < view.from || bar[BAR.from] > view.to) return;
    const left = Math.max(x(bar[BAR.from]), 0), right = Math.min(Math.max(x(bar[BAR.to]), left + 2), width);
    nodeBar(pen, bar[BAR.node], left, y + 5 * lane.rows[place], right - left, 4, bar[BAR.node] < 0 || wanted.nodes[bar[BAR.node]] ? 1 : 0.15, []);
  });
}

function drawOps(pen, lane, y, x) {
  const last = {};
  for (let place = lowest(lane.ops, OP.at, view.from - lane.longest); place < lane.ops.length; place++) {
    const op = lane.ops[place];
    if (op[OP.at] > view.to) break;
    if (!isMarked(op)) continue;
    const at = Math.round(x(op[OP.at])), end = x(op[OP.at] + Math.max(op[OP.lasted], 0)), kind = op[OP.outcome] || (isRead(op) ? "read" : 0);
    const colour = [colours.ok, colours.fail, colours.info][op[OP.outcome]];
    if (last[kind] === at && end - at < 3) continue;
    last[kind] = at;
    pen.strokeStyle = pen.fillStyle = colour;
    pen.globalAlpha = kind === "read" ? 0.45 : 0.9;
    if (end - at > 3) pen.fillRect(at, y + 4, end - at, 1);
    pen.lineWidth = 1.4;
    pen.beginPath();
    if (kind === 0) { pen.moveTo(at - 3, y + 8); pen.lineTo(at + 3, y + 8); pen.lineTo(at, y + 1); pen.fill(); }
    else if (kind === "read") { pen.moveTo(at, y + 2); pen.lineTo(at, y + 7); pen.stroke(); }
    else if (kind === 1) { pen.moveTo(at - 3, y + 1.5); pen.lineTo(at + 3, y + 7.5); pen.moveTo(at + 3, y + 1.5); pen.lineTo(at - 3, y + 7.5); pen.stroke(); }
    else { pen.font = "bold 11px system-ui, 'DejaVu Sans', sans-serif"; pen.fillText("?", at - 3, y + 5); pen.font = "11px system-ui, 'DejaVu Sans', sans-serif"; }
  }
  pen.globalAlpha = 1;
  pen.lineWidth = 1;
}

// Marks that would lie on one another are drawn once; `labelled` is where the last one ended.
function drawObjection(pen, bad, y, x, labelled) {
  if (bad[BAD.to] < view.from || bad[BAD.from] > view.to) return labelled;
  const left = Math.max(x(bad[BAD.from]), -2);
  pen.fillStyle = colours.bad;
  pen.fillRect(left, y, Math.max(x(bad[BAD.to]) - left, 4), 2);
  if (left < labelled) return labelled;
  pen.fillRect(left - 1, y, 2, LANE);
  pen.font = "bold 12px system-ui, 'DejaVu Sans', sans-serif";
  pen.fillText("!", left + 3, y + 10);
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  return left + 10;
}

function drawTwo(pen, bad, y, x, width, labelled) {
  if (bad[BAD.to] < view.from || bad[BAD.from] > view.to) return labelled;
  let left = Math.max(x(bad[BAD.from]), -2), right = Math.min(x(bad[BAD.to]), width + 2);
  if (right - left < 26) { // never too narrow to be seen, and never cut by the edge
    const middle = Math.min(Math.max((left + right) / 2, 13), width - 13);
    left = middle - 13;
    right = middle + 13;
  }
  pen.fillStyle = hatch("/", colours.bad, 0.5);
  pen.fillRect(left, y, right - left, LANE - 1);
  pen.strokeStyle = colours.bad;
  pen.lineWidth = 3;
  pen.strokeRect(left + 1.5, y + 1.5, right - left - 3, LANE - 4);
  pen.lineWidth = 1;
  pen.font = "bold 11px system-ui, 'DejaVu Sans', sans-serif";
  const label = ["TWO OWNERS", "2!"].find((each) => right - left > pen.measureText(each).width + 10) || "2";
  const wide = pen.measureText(label).width + 6, middle = Math.min(Math.max((left + right) / 2, wide / 2), width - wide / 2);
  if (middle - wide / 2 > labelled) {
    pen.fillStyle = colours.bad;
    pen.fillRect(middle - wide / 2, y + 12, wide, 15);
    pen.fillStyle = colours["bad-ink"];
    pen.fillText(label, middle - wide / 2 + 3, y + 20);
    labelled = middle + wide / 2;
  }
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  return labelled;
}

function drawFocus(pen, lane, y, x, width) {
  pen.strokeStyle = colours.focus;
  pen.strokeRect(0.5, y + 0.5, width - 1, LANE - 2);
  const step = lane.steps[view.step];
  if (!step) return;
  const at = x(step.at);
  pen.lineWidth = 2;
  pen.beginPath(); pen.arc(at, y + (step.kind === "own" ? 11 : 24.5), 8, 0, 7); pen.stroke();
  pen.lineWidth = 1;
}
