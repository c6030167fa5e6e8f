// The joint graph: draws what layout.js laid out, opens and closes modules, searches, follows keys.

const ROLE = { saved: ["#D55E00", 2.4, "solid"], quantize: ["#0072B2", 2.4, "solid"], dequantize: ["#0072B2", 2.4, "solid"], recomputed: ["#009E73", 1.6, "dashed"], "": ["#555555", 1, "solid"] };

function drawGraph(keep) {
  const nodes = data.nodes[state.side], drawn = approxGraph.layout(nodes, data.texts, state.open, narrow() ? 1 : 3);
  const before = state.drawn && state.drawn.units[chosenUnit()], nameOf = (unit) => nodes.name[unit.members[0]];
  select(-1);
  state.drawn = drawn;
  for (const unit of drawn.units) unit.name = nameOf(unit);
  const units = drawn.units, first = (unit) => unit.members[0];
  const role = (unit) => (unit.ops ? text(nodes.role[first(unit)]) : "");
  const coded = (unit) => ["quantize", "dequantize"].includes(role(unit));
  const letters = Math.floor(Math.max(6, model("graph").inner_width / (narrow() ? 2.8 : 7.2) / 7.2));
  const title = (unit) => (unit.ops ? text(nodes.op[first(unit)]) : `${unit.path} ▸ ${unit.members.length}`);
  fill("units", {
    x: units.map((u) => u.x), y: units.map((u) => u.y), w: units.map(() => 1),
    fill: units.map((u) => (coded(u) ? "#7fb7dc" : u.ops ? "#e4e4e4" : "#cfcfcf")),
    line: units.map((u) => ROLE[role(u)][0]), width: units.map((u) => ROLE[role(u)][1]), dash: units.map((u) => ROLE[role(u)][2]),
    title: units.map((u) => (u.ops ? short(title(u), letters) : short(u.path, Math.max(letters - 5, 5)) + ` ▸ ${u.members.length}`)),
    shape: units.map((u) => (u.ops ? text(nodes.shape[first(u)]) : `${u.members.length} ops`)),
    role: units.map((u) => role(u) || u.side), hint: units.map((u) => (u.ops ? nodes.name[first(u)] : `${u.path}: click to open`)),
  });
  const lines = drawn.thin.map(([a, b]) => approxGraph.line(units[a], units[b]));
  fill("thin", { xs: lines.map((l) => l[0]), ys: lines.map((l) => l[1]) });
  const saved = drawn.bold.map(([a, b]) => approxGraph.line(units[a], units[b]));
  const colour = ([, , , source]) => (text(nodes.role[source]) === "quantize" ? "#0072B2" : "#D55E00");
  fill("bold", { xs: saved.map((l) => l[0]), ys: saved.map((l) => l[1]), colour: drawn.bold.map(colour) });
  const grounds = drawn.chains;
  fill("chains", { left: grounds.map((g) => g[0]), right: grounds.map((g) => g[1]), top: grounds.map((g) => g[2]), bottom: grounds.map((g) => g[3]) });
  const plot = model("graph"), half = narrow() ? 1.4 : 3.6;
  if (!keep) plot.y_range.setv({ start: Math.min(27, Math.max(drawn.height, 6)), end: -1 });
  plot.x_range.setv({ start: -half, end: half });
  if (before) {
    const same = (u) => u.side === before.side && u.ops === before.ops && u.path === before.path && (!u.ops || nameOf(u) === before.name);
    const at = units.findIndex(same);
    if (at >= 0) choose(at, false);
    else byId("details").textContent = "Nothing is chosen.";
  }
  byId("count").textContent = `${units.length} boxes for ${nodes.name.length} ops`;
}

function details(i) {
  const nodes = data.nodes[state.side], readers = [];
  nodes.reads.forEach((reads, j) => { if (reads.includes(i) || nodes.saved[j].includes(i)) readers.push(nodes.name[j]); });
  const rows = [["op", text(nodes.op[i])], ["name", nodes.name[i]], ["side", nodes.backward[i] ? "backward" : "forward"],
    ["module", text(nodes.module[i]) || "(model)"], ["value", text(nodes.shape[i])], ["bytes", size(nodes.bytes[i])], ["role", text(nodes.role[i])],
    ["source", text(nodes.source[i])], ["reads", [...nodes.reads[i], ...nodes.saved[i]].map((j) => nodes.name[j]).join(", ")], ["read by", readers.join(", ")]];
  const list = document.createElement("dl");
  for (const [term, value] of rows.filter((row) => row[1])) {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = term; dd.textContent = value;
    list.append(dt, dd);
  }
  byId("details").replaceChildren(list);
}

function toggle(path) {
  if (state.open.has(path)) state.open.delete(path); else state.open.add(path);
  drawGraph(true);
}

const chosenUnit = () => model("units").selected.indices[0] ?? -1;

// Marks a box, or none (-1), without acting as a tap on it does.
function select(index) {
  const busy = state.busy;
  state.busy = true;
  model("units").selected.indices = index < 0 ? [] : [index];
  state.busy = busy;
}

function choose(index, show = true) {
  const unit = state.drawn.units[index];
  select(index);
  if (unit.ops) details(unit.members[0]);
  else byId("details").textContent = `${unit.path}: ${unit.members.length} ops of the ${unit.side}`;
  const range = model("graph").y_range, reach = range.start - range.end;
  if (show && (unit.y < range.end + 1 || unit.y > range.start - 1)) range.setv({ start: unit.y + reach / 2, end: unit.y - reach / 2 });
}

function press(index) {
  const unit = state.drawn.units[index];
  if (unit.ops) choose(index, false);
  else toggle(unit.path);
}

function closeAround(index) {
  const path = state.drawn.units[index].path, parts = path.split(".");
  const around = state.drawn.units[index].ops ? path : parts.slice(0, -1).join(".") || path;
  if (state.open.has(around)) toggle(around);
  const at = state.drawn.units.findIndex((unit) => unit.path === around);
  if (at >= 0) choose(at);
}

function reveal(i) {
  const path = text(data.nodes[state.side].module[i]);
  if (path === "") state.open.add(approxGraph.ROOT);
  path.split(".").forEach((_, at, parts) => { if (path) state.open.add(parts.slice(0, at + 1).join(".")); });
  drawGraph(true);
  choose(state.drawn.unitOf[i]);
}

function search(wanted) {
  const nodes = data.nodes[state.side], box = byId("found"), word = wanted.trim().toLowerCase();
  box.replaceChildren();
  if (!word) return;
  const hits = [];
  for (let i = 0; i < nodes.name.length; i++)
    if ([nodes.name[i], text(nodes.op[i]), text(nodes.module[i])].some((each) => each.toLowerCase().includes(word))) hits.push(i);
  for (const i of hits.slice(0, 12)) {
    const button = document.createElement("button");
    button.textContent = `${nodes.name[i]}${text(nodes.module[i]) ? ` in ${text(nodes.module[i])}` : ""}`;
    button.addEventListener("click", () => reveal(i));
    box.append(button);
  }
  const count = document.createElement("span");
  count.className = "note";
  count.textContent = hits.length > 12 ? `and ${hits.length - 12} more` : hits.length ? "" : "nothing is named so";
  box.append(count);
}

function keys(event) {
  const units = state.drawn.units, chosen = chosenUnit();
  const step = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] }[event.key];
  if (step) {
    event.preventDefault();
    if (chosen < 0) { choose(0); return; }
    const from = units[chosen], ahead = (u) => (u.x - from.x) * step[0] + (u.y - from.y) * step[1];
    const far = (u) => ahead(u) + 3 * Math.abs(step[0] ? u.y - from.y : u.x - from.x);
    let best = -1;
    units.forEach((u, i) => { if (ahead(u) > 0.01 && (best < 0 || far(u) < far(units[best]))) best = i; });
    if (best >= 0) choose(best);
  } else if (event.key === "Enter" && chosen >= 0) {
    event.preventDefault();
    const { path, ops, side } = units[chosen];
    press(chosen);
    const inside = (unit) => unit.side === side && (unit.path === path || unit.path.startsWith(path + "."));
    const at = ops ? -1 : state.drawn.units.findIndex(inside);
    if (at >= 0) choose(at);
  } else if (event.key === "Backspace" && chosen >= 0) {
    event.preventDefault();
    closeAround(chosen);
  }
}
