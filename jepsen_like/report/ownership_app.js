// Pointer, wheel, keys, buttons, filters, and the address of a moment: #t=SECONDS&session=ID
const $ = (id) => document.getElementById(id);
const make = (tag, props = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), props);
  made.append(...children);
  return made;
};
let waiting = 0;
const redraw = () => { waiting ||= requestAnimationFrame(() => { waiting = 0; drawHead(); drawLanes(); }); };

// -- what stands around the lanes --------------------------------------------------------------------------------------

const buttons = new Map();
function buildNames() {
  for (const lane of data.lanes) {
    const others = lane.bad.length - lane.two;
    const flag = lane.two ? make("span", { className: "flag", textContent: "2 owners" }) :
      others ? make("span", { className: "flag soft", textContent: "! " + others }) : "";
    const button = make("button", { type: "button", className: "lane", tabIndex: -1, title: lane.id },
      make("span", { className: "id", textContent: lane.id }), flag);
    const last = lane.own.at(-1);
    button.setAttribute("aria-label", `session ${lane.id}, ${lane.ops.length} ops, ${lane.bad.length} objections` +
      (lane.two ? `, TWO OWNERS: ${lane.two}` : "") + (last ? `; in the end ${sayOwn(last)}` : ""));
    button.addEventListener("focus", () => pick(lane, view.lane === lane ? view.step : -1));
    button.addEventListener("click", () => pick(lane, view.lane === lane ? view.step : -1));
    buttons.set(lane, button);
    $("names").append(button);
  }
}

function filter() {
  choose();
  const shown = new Set(visible);
  for (const [lane, button] of buttons) { button.hidden = !shown.has(lane); button.tabIndex = -1; }
  if (!shown.has(view.lane)) view.lane = null;
  const entry = view.lane || visible[0];
  if (entry) buttons.get(entry).tabIndex = 0;
  $("none").hidden = visible.length > 0;
  $("shown").textContent = visible.length === data.lanes.length ? "" : `${visible.length} of ${data.lanes.length} sessions`;
  redraw();
}

function check(where, label, isOn, change, swatch) {
  const box = make("input", { type: "checkbox", checked: isOn });
  box.addEventListener("change", () => { change(box.checked); filter(); });
  where.append(make("label", {}, box, swatch || "", label));
}

function nodeSwatch(node, width = 24) {
  const canvas = make("canvas", { className: "swatch", width: width * 2, height: 28 });
  canvas.style.width = width + "px";
  const pen = canvas.getContext("2d");
  pen.scale(2, 2);
  nodeBar(pen, node, 0, 0, width, 14, 1, []);
  return canvas;
}
function drawnSwatch(draw) {
  const canvas = make("canvas", { width: 88, height: 32 });
  canvas.style.cssText = "width:44px;height:16px";
  const pen = canvas.getContext("2d");
  pen.scale(2, 2);
  pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  pen.textBaseline = "middle";
  draw(pen);
  return canvas;
}

function buildControls() {
  data.nodes.forEach((node, place) => check($("nodes"), node, true, (on) => { wanted.nodes[place] = on; }, nodeSwatch(place)));
  for (const [mark, label] of [["ok", "▲ ok"], ["read", "| reads"], ["refused", "× refused"], ["unknown", "? unknown"], ["data", "▬ data path"]])
    check($("marks"), label, true, (on) => { wanted.marks[mark] = on; });
  data.kinds.forEach((kind, place) => check($("kinds"), kind, true, (on) => { wanted.kinds[place] = on; },
    make("span", { className: "swatch", style: `background:${BANDS[place % BANDS.length]};width:12px` })));
  $("kinds").hidden = data.kinds.length === 0;
  check($("sessions"), "only with objections", false, (on) => { wanted.problems = on; });
  check($("sessions"), "only with events in sight now", false, (on) => { wanted.within = on ? [view.from, view.to] : null; });
  $("find").addEventListener("input", () => { wanted.text = $("find").value.trim().toLowerCase(); filter(); });
  const actions = { "zoom-in": () => zoom(0.5), "zoom-out": () => zoom(2), left: () => pan(-0.3), right: () => pan(0.3), fit: () => look(0, data.end) };
  for (const [id, act] of Object.entries(actions)) $(id).addEventListener("click", () => { act(); redraw(); });
  $("next-bad").addEventListener("click", () => problem(1));
  $("last-bad").addEventListener("click", () => problem(-1));
  $("next-bad").disabled = $("last-bad").disabled = data.problems.length === 0;
}

function buildText() {
  const two = data.problems.filter(({ row }) => row[BAD.two]).length, ops = data.lanes.reduce((sum, lane) => sum + lane.ops.length, 0);
  const word = data.valid === true ? "PASS" : data.valid === false ? "FAIL" : "UNKNOWN";
  Object.assign($("verdict"), { textContent: word, className: "verdict " + word.toLowerCase() });
  $("count").textContent = `${data.lanes.length} sessions, ${ops} ops, ${seconds(data.end, 1)}` + (two ? ", " : "");
  if (two) $("count").append(make("b", { textContent: `two owners: ${two} objection${two > 1 ? "s" : ""}` }));
  for (const note of data.notes) $("notes-list").append(make("li", { textContent: note }));
  $("notes").hidden = data.notes.length === 0;
  const rows = [["the run", 2], ["seconds", HEAD.whole + 2], ...data.kinds.map((kind, place) => [kind, kindTop(place)]), ["who leads", kindTop(data.kinds.length) + 1]];
  for (const [label, y] of rows) $("corner").append(make("span", { textContent: label, style: `top:${y}px` }));
  $("head").style.height = headHeight() + 1 + "px";
}

function buildLegend() {
  const op = (outcome, f) => [[100, 0, f, outcome, -1, -1, -1, -1, -1, 0]];
  const entry = (draw, words) => $("legend-list").append(make("div", {}, make("dt", {}, drawnSwatch(draw)), make("dd", { textContent: words })));
  const own = (state, known) => (pen) => {
    const kept = { ...view };
    Object.assign(view, { from: 0, to: 44 });
    data.states.push(state);
    drawOwn(pen, [2, known, 42, 0, 3, data.states.length - 1, 1, 1], 0, (at) => at, 44);
    data.states.pop();
    Object.assign(view, kept);
  };
  $("legend-list").replaceChildren();
  entry(own("ATTACHED", 42), "owner by the register, with its epoch; one colour, pattern and name per node");
  entry(own("ATTACHED", 20), "thin and pale: last seen so, nobody asked since");
  entry(own("RECOVERING", 42), "narrow: recovering (owner without a binding)");
  entry(own("FROZEN", 42), "narrow, dashed frame: frozen, moving to another node");
  entry(own("TERMINATED", 42), "dotted line: the session has ended");
  const mark = (outcome, f) => (pen) => {
    const kept = { ...view };
    Object.assign(view, { from: 0, to: 200 });
    const fs = data.fs.push(f) - 1;
    drawOps(pen, { ops: op(outcome, fs), longest: 0 }, 3, () => 22);
    data.fs.pop();
    Object.assign(view, kept);
  };
  entry(mark(0, "op"), "▲ an op that succeeded, at the time it was asked; the line: until its answer");
  entry(mark(0, "get"), "| a read that succeeded");
  entry(mark(1, "op"), "× refused: it did not happen and never will");
  entry(mark(2, "op"), "? nobody knows whether it happened");
  entry((pen) => nodeBar(pen, 1, 0, 6, 44, 4, 1, []), "thin line: the data path, who acted for the session");
  entry((pen) => { pen.globalAlpha = 0.35; pen.fillStyle = BANDS[0]; pen.fillRect(0, 0, 44, 16); }, "band behind the lanes: a fault; its kind stands in the rows above");
  entry((pen) => { pen.fillStyle = colours.bad; pen.fillRect(10, 0, 2, 16); pen.fillText("!", 15, 8); }, "! a checker objects to what happened here");
  entry((pen) => { pen.fillStyle = hatch("/", colours.bad, 0.5); pen.fillRect(0, 0, 44, 16); pen.strokeStyle = colours.bad; pen.lineWidth = 3; pen.strokeRect(1, 1, 42, 14); }, "TWO OWNERS: two nodes acted, or one went on after its successor had begun");
}

// -- choosing a lane, a moment, a problem ------------------------------------------------------------------------------

function pick(lane, step, at) {
  if (view.lane && buttons.get(view.lane)) { buttons.get(view.lane).setAttribute("aria-pressed", "false"); buttons.get(view.lane).tabIndex = -1; }
  if (visible[0]) buttons.get(visible[0]).tabIndex = -1;
  Object.assign(view, { lane, step });
  buttons.get(lane).setAttribute("aria-pressed", "true");
  buttons.get(lane).tabIndex = 0;
  const found = lane.steps[step];
  if (found && (found.at < view.from || found.at > view.to)) { const half = (view.to - view.from) / 2; look(found.at - half, found.at + half); }
  const said = found ? `${step + 1} of ${lane.steps.length}: ${sayStep(found)}` : `${lane.steps.length} events; the arrow keys go through them`;
  const moment = found ? found.at : at;
  const around = moment === undefined ? [] : [...(found?.kind !== "own" ? [ownerAt(lane, moment)].filter(Boolean).map((row) => sayOwn(row, moment)) : []), ...faultsAt(moment).map(sayFault)];
  $("detail").textContent = [`session ${lane.id}, ${said}`, ...around].join("\n");
  redraw();
}

function show(lane, at, span, step = -1) {
  if (!visible.includes(lane)) {
    Object.assign(wanted, { text: "", problems: false, within: null });
    $("find").value = "";
    for (const box of $("sessions").querySelectorAll("input[type=checkbox]")) box.checked = false;
    filter();
    if (!visible.includes(lane)) return;
  }
  look(at - span / 2, at + span / 2);
  const box = $("scroll");
  box.scrollTop = visible.indexOf(lane) * LANE - box.clientHeight / 2 + LANE / 2;
  pick(lane, step, at);
}

let problemPlace = -1;
function problem(by) {
  const found = data.problems;
  problemPlace = problemPlace < 0 && by < 0 ? found.length - 1 : (problemPlace + by + found.length) % found.length;
  const { lane, row } = found[problemPlace];
  const step = lane.steps.findIndex((each) => each.row === row);
  show(lane, (row[0] + row[1]) / 2, Math.max((row[1] - row[0]) * 3, 2e6), step);
}

function goToAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const lane = data.lanes.find((each) => each.id === asked.get("session")), at = Number(asked.get("t")) * 1e6;
  if (!lane || !asked.has("t") || !Number.isFinite(at)) return;
  let step = lane.steps.findIndex((each) => each.kind === "bad" && Math.abs(each.at - at) < 1000);
  if (step < 0) step = Math.min(lowest(lane.steps.map((each) => [each.at]), 0, at - 1), lane.steps.length - 1);
  const row = lane.steps[step]?.kind === "bad" ? lane.steps[step].row : [at, at];
  show(lane, (row[0] + row[1]) / 2, Math.max((row[1] - row[0]) * 3, 2e6), step);
}

// -- pointer, wheel, keys ----------------------------------------------------------------------------------------------

const timeAt = (canvas, x) => view.from + (x / canvas.clientWidth) * (view.to - view.from);

function under(x, y) {
  const lane = visible[Math.floor((y + view.scroll) / LANE)];
  if (!lane) return null;
  const within = (y + view.scroll) % LANE, at = timeAt(lanes_, x), near = 7 * (view.to - view.from) / lanes_.clientWidth;
  const said = lane.bad.filter((bad) => bad[0] - near <= at && at <= bad[1] + near).map(sayBad);
  let best = null, distance = near, step = -1;
  for (let place = lowest(lane.ops, OP.at, at - near - lane.longest); place < lane.ops.length; place++) {
    const op = lane.ops[place];
    if (op[OP.at] > at + near) break;
    const away = Math.max(0, Math.abs(op[OP.at] - at));
    if (isMarked(op) && away <= distance && within > 17 && within < 30) { best = op; distance = away; }
  }
  if (best) { said.push(sayOp(best)); step = lane.steps.findIndex((each) => each.row === best); }
  const owner = ownerAt(lane, at);
  if (owner) said.push(sayOwn(owner, at));
  for (const bar of lane.data) if (bar[BAR.from] - near / 2 <= at && at <= bar[BAR.to] + near / 2) said.push(sayBar(bar));
  said.push(...faultsAt(at).filter((fault) => wanted.kinds[fault[0]]).map(sayFault));
  return { lane, at, step, said: [`${lane.id} at ${seconds(at)}`, ...said] };
}

function underHead(x, y) {
  const at = timeAt(top_, x), near = 4 * (view.to - view.from) / top_.clientWidth, row = Math.floor((y - HEAD.whole - HEAD.axis) / HEAD.row);
  if (y < HEAD.whole) return ["the whole run; click or drag to go there"];
  const within = (from, to) => from - near <= at && at <= to + near;
  if (row === data.kinds.length) return data.leaders.filter((each) => within(each[0], each[1])).map(sayLeader);
  return data.faults.filter((fault) => (row < 0 || fault[0] === row) && within(fault[FAULT.from], fault[FAULT.to])).map(sayFault);
}

function tip(event, lines) {
  const box = $("tip");
  box.style.display = lines && lines.length ? "block" : "none";
  if (!lines || !lines.length) return;
  box.textContent = lines.slice(0, 14).join("\n");
  const { offsetWidth: width, offsetHeight: height } = box;
  box.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 6)) + "px";
  box.style.top = (event.clientY + 18 + height > innerHeight ? Math.max(4, event.clientY - height - 10) : event.clientY + 18) + "px";
}

function drags(canvas, move) {
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    held = { x: event.offsetX, y: event.clientY, from: view.from, to: view.to, scroll: $("scroll").scrollTop, moved: false };
    canvas.setPointerCapture(event.pointerId);
    move(event, held, true);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    held.moved ||= Math.abs(event.offsetX - held.x) + Math.abs(event.clientY - held.y) > 3;
    if (held.moved) { move(event, held, false); tip(event, null); }
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => {
    if (held && !held.moved && canvas === lanes_ && end === "pointerup") {
      const found = under(event.offsetX, event.offsetY);
      if (found) { buttons.get(found.lane).focus({ preventScroll: true }); pick(found.lane, found.step, found.at); }
    }
    held = null;
    canvas.classList.remove("dragging");
  });
  canvas.addEventListener("pointerleave", (event) => tip(event, null));
}

function buildPointer() {
  drags(lanes_, (event, held, isDown) => {
    if (isDown) return;
    lanes_.classList.add("dragging");
    const by = ((held.x - event.offsetX) / lanes_.clientWidth) * (held.to - held.from);
    look(held.from + by, held.to + by);
    $("scroll").scrollTop = held.scroll + held.y - event.clientY;
    redraw();
  });
  drags(top_, (event, held, isDown) => {
    if (isDown && event.offsetY < HEAD.whole || held.whole) {
      held.whole = true;
      const at = (event.offsetX / top_.clientWidth) * data.end, half = (held.to - held.from) / 2;
      look(at - half, at + half);
    } else if (!isDown) {
      const by = ((held.x - event.offsetX) / top_.clientWidth) * (held.to - held.from);
      look(held.from + by, held.to + by);
    }
    redraw();
  });
  lanes_.addEventListener("pointermove", (event) => {
    if (event.buttons === 0) tip(event, under(event.offsetX, event.offsetY)?.said);
  });
  top_.addEventListener("pointermove", (event) => { if (event.buttons === 0) tip(event, underHead(event.offsetX, event.offsetY)); });
  for (const canvas of [lanes_, top_]) canvas.addEventListener("wheel", (event) => {
    if (canvas === lanes_ && !event.ctrlKey && !event.metaKey && !event.altKey && !event.shiftKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan(((event.deltaX || event.deltaY) / canvas.clientWidth) * 0.8);
    else zoom(Math.exp(Math.max(-150, Math.min(150, event.deltaY)) * 0.004), timeAt(canvas, event.offsetX));
    redraw();
  }, { passive: false });
}

function moveLane(by) {
  const place = view.lane ? visible.indexOf(view.lane) : -1;
  const lane = visible[Math.max(0, Math.min(visible.length - 1, place + by))];
  if (lane) { buttons.get(lane).focus({ preventScroll: true }); const box = $("scroll"), y = visible.indexOf(lane) * LANE;
    if (y < box.scrollTop || y + LANE > box.scrollTop + box.clientHeight) box.scrollTop = y - box.clientHeight / 2; }
}
function moveStep(by) {
  const lane = view.lane;
  if (!lane || !lane.steps.length) return;
  let step = view.step;
  if (step < 0) step = lowest(lane.steps.map((each) => [each.at]), 0, view.from) - (by > 0 ? 1 : 0);
  pick(lane, Math.max(0, Math.min(lane.steps.length - 1, step + by)));
}

const KEYS = {
  ArrowDown: () => moveLane(1), ArrowUp: () => moveLane(-1), PageDown: () => moveLane(10), PageUp: () => moveLane(-10),
  ArrowRight: (event) => (event.shiftKey ? pan(0.2) : moveStep(1)), ArrowLeft: (event) => (event.shiftKey ? pan(-0.2) : moveStep(-1)),
  Home: () => look(0, view.to - view.from), End: () => look(data.end - (view.to - view.from), data.end),
  "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => look(0, data.end), n: () => data.problems.length && problem(1), p: () => data.problems.length && problem(-1),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, summary, a")) return;
  if (event.target.closest("#controls") && event.key.startsWith("Arrow")) return;
  if (!(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key](event);
  redraw();
});

readColours();
buildText();
buildControls();
buildNames();
buildLegend();
buildPointer();
filter();
$("scroll").addEventListener("scroll", redraw);
new ResizeObserver(redraw).observe($("chart"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); buildLegend(); redraw(); });
addEventListener("hashchange", goToAddress);
drawHead();
drawLanes();
goToAddress();
document.documentElement.dataset.readyMs = Math.round(performance.now());
