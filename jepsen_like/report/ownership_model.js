// The data of the page, and every question about it that needs no screen. Rows are arrays; the names of their places:
"use strict";
const OWN = { from: 0, known: 1, to: 2, node: 3, epoch: 4, state: 5, first: 6, last: 7 };
const OP = { at: 0, lasted: 1, f: 2, outcome: 3, node: 4, reason: 5, version: 6, owner: 7, epoch: 8, event: 9 };
const BAR = { from: 0, to: 1, node: 2, epoch: 3, count: 4, exact: 5 };
const BAD = { from: 0, to: 1, checker: 2, text: 3, two: 4 };
const FAULT = { kind: 0, from: 1, to: 2, nodes: 3, detail: 4, open: 5 };
const LEADER = { from: 0, to: 1, node: 2, term: 3 };
const OUTCOMES = ["ok", "refused", "unknown"];
const SPAN_MIN = 200; // microseconds on the whole width, at most zoom
const READS = ["get", "get-local"];

const data = JSON.parse(document.getElementById("data").textContent);

const text = (names, number) => (number < 0 ? "none" : names[number]);
const seconds = (us, digits = 6) => (us / 1e6).toFixed(digits) + " s";
const lasted = (us) => (us < 0 ? "never answered" : us < 1000 ? us + " µs" : us < 1e6 ? (us / 1e3).toFixed(1) + " ms" : (us / 1e6).toFixed(3) + " s");
const isRead = (op) => READS.includes(data.fs[op[OP.f]]);

// The first place in rows, ordered by `field`, whose value is not below `value`.
function lowest(rows, field, value) {
  let low = 0, high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle][field] < value) low = middle + 1; else high = middle;
  }
  return low;
}

for (const lane of data.lanes) {
  lane.longest = lane.ops.reduce((most, op) => Math.max(most, op[OP.lasted]), 0);
  lane.two = lane.bad.filter((bad) => bad[BAD.two]).length;
  lane.bad.sort((one, other) => one[0] - other[0]);
  lane.rows = stacked(lane.data);
  lane.steps = [
    ...lane.own.map((row) => ({ at: row[OWN.from], kind: "own", row })),
    ...lane.ops.map((row) => ({ at: row[OP.at], kind: "op", row })),
    ...lane.bad.map((row) => ({ at: row[BAD.from], kind: "bad", row })),
  ].sort((one, other) => one.at - other.at);
}
data.problems = data.lanes
  .flatMap((lane) => lane.bad.map((row) => ({ lane, row })))
  .sort((one, other) => other.row[BAD.two] - one.row[BAD.two] || one.row[0] - other.row[0]);

// A bar that overlaps one of another node lies in a second row, so that neither hides the other.
function stacked(bars) {
  const ends = new Map(); // of the first row, by node
  return bars.map((bar) => {
    const isTaken = [...ends].some(([node, end]) => node !== bar[BAR.node] && end > bar[BAR.from]);
    if (!isTaken) ends.set(bar[BAR.node], Math.max(ends.get(bar[BAR.node]) ?? -1, bar[BAR.to]));
    return isTaken ? 1 : 0;
  });
}

const ownerAt = (lane, at) => lane.own.find((row) => row[OWN.from] <= at && at < row[OWN.to]);
const faultsAt = (at) => data.faults.filter((fault) => fault[FAULT.from] <= at && at <= fault[FAULT.to]);

// -- sentences ---------------------------------------------------------------------------------------------------------

function sayOwn(row, at) {
  const versions = row[OWN.first] === row[OWN.last] ? row[OWN.first] : row[OWN.first] + " to " + row[OWN.last];
  const owner = row[OWN.node] < 0 ? "no owner" : "owner " + data.nodes[row[OWN.node]];
  const sure = at !== undefined && at > row[OWN.known] ? "; by now it may have changed" : "";
  return `${owner}, epoch ${row[OWN.epoch]}, ${text(data.states, row[OWN.state])}, version ${versions}, ` +
    `seen from ${seconds(row[OWN.from], 3)} to ${seconds(row[OWN.known], 3)}${sure}`;
}

function sayOp(op) {
  const shown = op[OP.version] < 0 ? "" :
    `, showing version ${op[OP.version]}, owner ${text(data.nodes, op[OP.owner])}, epoch ${op[OP.epoch]}`;
  const reason = op[OP.reason] < 0 ? "" : " (" + data.reasons[op[OP.reason]] + ")";
  return `${data.fs[op[OP.f]]} at ${text(data.nodes, op[OP.node])}: ${OUTCOMES[op[OP.outcome]]}${reason}${shown}; ` +
    `asked ${seconds(op[OP.at])}, ${op[OP.lasted] < 0 ? "" : "after "}${lasted(op[OP.lasted])}, event ${op[OP.event]}`;
}

function sayBar(bar) {
  const how = bar[BAR.exact] ? "acts throughout" : bar[BAR.count] === 1 ? "seen acting once" : `seen acting ${bar[BAR.count]} times`;
  return `data path: ${text(data.nodes, bar[BAR.node])} ${how}, epoch ${bar[BAR.epoch]}, ` +
    `${seconds(bar[BAR.from], 3)} to ${seconds(bar[BAR.to], 3)}`;
}

const sayBad = (bad) => (bad[BAD.two] ? "TWO OWNERS: " : "objection, ") + `${data.checkers[bad[BAD.checker]]}: ${bad[BAD.text]}`;

function sayFault(fault) {
  const until = fault[FAULT.open] ? "never healed" : "to " + seconds(fault[FAULT.to], 3);
  return `fault ${data.kinds[fault[FAULT.kind]]} ${fault[FAULT.nodes]} from ${seconds(fault[FAULT.from], 3)} ${until} ${fault[FAULT.detail]}`;
}

const sayLeader = (row) => `${text(data.nodes, row[LEADER.node])} says that it leads term ${row[LEADER.term]}, ` +
  `${seconds(row[LEADER.from], 3)} to ${seconds(row[LEADER.to], 3)}`;
const sayStep = (step) => ({ own: sayOwn, op: sayOp, bad: sayBad })[step.kind](step.row);

// -- what is shown -----------------------------------------------------------------------------------------------------

const view = { from: 0, to: data.end, scroll: 0, lane: null, step: -1 };
const wanted = {
  text: "", problems: false, within: null, nodes: data.nodes.map(() => true), kinds: data.kinds.map(() => true),
  marks: { ok: true, read: true, refused: true, unknown: true, data: true },
};
let visible = data.lanes;

const touches = (lane) => {
  if (wanted.nodes.every(Boolean)) return true;
  const some = (rows, place) => rows.some((row) => row[place] >= 0 && wanted.nodes[row[place]]);
  return some(lane.own, OWN.node) || some(lane.ops, OP.node) || some(lane.data, BAR.node);
};
const isActive = (lane, from, to) => lane.steps.some((step) => from <= step.at && step.at <= to) ||
  lane.data.some((bar) => bar[BAR.from] <= to && from <= bar[BAR.to]);
const choose = () => {
  visible = data.lanes.filter((lane) => lane.id.toLowerCase().includes(wanted.text) &&
    (!wanted.problems || lane.bad.length > 0) && (!wanted.within || isActive(lane, ...wanted.within)) && touches(lane));
};
const isMarked = (op) => (op[OP.node] < 0 || wanted.nodes[op[OP.node]]) &&
  (op[OP.outcome] === 0 ? (isRead(op) ? wanted.marks.read : wanted.marks.ok) : wanted.marks[OUTCOMES[op[OP.outcome]]]);

function look(from, to) {
  const span = Math.min(Math.max(to - from, Math.min(SPAN_MIN, data.end)), data.end);
  const middle = (from + to) / 2;
  view.from = Math.min(Math.max(middle - span / 2, 0), data.end - span);
  view.to = view.from + span;
}
function zoom(factor, at = (view.from + view.to) / 2) {
  const span = Math.min(Math.max((view.to - view.from) * factor, Math.min(SPAN_MIN, data.end)), data.end);
  const share = (at - view.from) / (view.to - view.from);
  look(at - share * span, at - share * span + span);
}
const pan = (share) => { const by = (view.to - view.from) * share; look(view.from + by, view.to + by); };
