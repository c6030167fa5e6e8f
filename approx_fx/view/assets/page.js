// Fills the page's figures from its data, and again whenever something is chosen.

"use strict";

(() => {
  const data = JSON.parse(document.getElementById("approx-data").textContent);
  const byId = (id) => document.getElementById(id);
  const narrow = () => window.innerWidth < 700;
  const MIB = 2 ** 20;
  const state = { side: "after", fold: 0, open: new Set(), drawn: null };
  const page = (window.approxPage = { data, state, ready: false });

  const model = (name) => Bokeh.documents[0].get_model_by_name(name);
  // Outlines and lines never become fewer, the rest is empty: bokeh paints once more by the numbers of those that went.
  const longest = new Map();

  function fill(name, columns) {
    if (columns.xs) {
      const count = Math.max(longest.get(name) || 0, columns.xs.length);
      longest.set(name, count);
      for (const [key, values] of Object.entries(columns))
        while (values.length < count) values.push(key === "xs" || key === "ys" ? [] : "");
    }
    model(name).data = columns;
  }
  const text = (number) => data.texts[number];
  const other = () => (state.side === "after" ? "before" : "after");
  const titles = { before: "torch.compile", after: "approx_fx" };

  function size(count) {
    const units = ["B", "KiB", "MiB", "GiB"];
    let at = 0;
    while (Math.abs(count) >= 1024 && at < 3) { count /= 1024; at++; }
    return `${count.toFixed(at === 0 ? 0 : at === 3 ? 2 : 1)} ${units[at]}`;
  }

  const short = (path, length) => (path.length <= length ? path : "…" + path.slice(path.length - length + 1));

  // Ribbon -----------------------------------------------------------------------------------------------------------

  function outline(left, right, thickness) {
    const xs = [], ys = [], back = [], points = 24;
    for (let k = 0; k <= points; k++) {
      const t = k / points, y = left + (right - left) * t * t * (3 - 2 * t);
      xs.push(t); ys.push(y); back.push(y + thickness);
    }
    return [xs.concat([...xs].reverse()), ys.concat(back.reverse())];
  }

  function drawRibbon() {
    const ribbon = data.ribbon[state.fold], arcs = ribbon.arcs[state.side], shapes = arcs.map((arc) => outline(arc[0], arc[1], arc[2]));
    const told = (column) => arcs.map((arc) => text(arc[4 + column]));
    fill("arcs", { xs: shapes.map((s) => s[0]), ys: shapes.map((s) => s[1]), colour: arcs.map((arc) => arc[3]),
      title: told(0), shape: told(1), coding: told(2), bytes: told(3), made: told(4), read: told(5), source: told(6), error: told(7) });
    const slots = ribbon.slots, both = (value) => slots.map(value).concat(slots.map(value));
    const hint = (slot) => (text(slot[3]) ? (ribbon.state === "folded" ? "click to unfold" : "click to fold or unfold") : "");
    fill("slots", { left: slots.map(() => -0.015).concat(slots.map(() => 1)), right: slots.map(() => 0).concat(slots.map(() => 1.015)),
      top: both((s) => s[1] + 0.06), bottom: both((s) => s[1] + s[2] - 0.06), title: both((s) => text(s[0])), hint: both(hint) });
    const length = narrow() ? 15 : 40, middle = (s) => s[1] + s[2] / 2;
    const names = slots.map((s) => short(text(s[0]) + (text(s[3]) && ribbon.state === "folded" && text(s[0]).startsWith(text(s[3])) ? " ▸" : ""), length));
    const right = narrow() ? [] : slots;
    fill("names", { x: slots.map(() => -0.03).concat(right.map(() => 1.03)), y: slots.map(middle).concat(right.map(middle)),
      text: names.concat(right.map((s, i) => names[i])), align: slots.map(() => "right").concat(right.map(() => "left")) });
    const plot = model("ribbon");
    plot.y_range.setv({ start: ribbon.height + 0.3, end: -0.3 });
    plot.x_range.setv(narrow() ? { start: -0.75, end: 1.06 } : { start: -0.4, end: 1.4 });
    plot.height = Math.max(320, Math.min(16 * ribbon.height + 60, 12000));
    byId("folds").value = String(state.fold);
  }

  function fold(index) {
    state.fold = index;
    drawRibbon();
  }

  function clickSlot(index) {
    const ribbon = data.ribbon[state.fold], slot = ribbon.slots[index % ribbon.slots.length], label = text(slot[3]);
    if (!label) return;
    const closed = text(slot[0]) === label || text(slot[0]).startsWith(label + ".");
    const wanted = closed ? data.ribbon.findIndex((each) => each.state === label) : 0;
    fold(wanted >= 0 ? wanted : data.ribbon.length - 1);
  }

  // Timeline ---------------------------------------------------------------------------------------------------------

  function places(moments) {
    const phases = [...new Set(moments.phase)], count = new Map(), next = new Map();
    for (const phase of moments.phase) count.set(phase, (count.get(phase) || 0) + 1);
    return moments.phase.map((phase) => {
      const at = next.get(phase) || 0;
      next.set(phase, at + 1);
      return phases.indexOf(phase) + at / count.get(phase);
    });
  }

  function drawTimeline() {
    const moments = data.moments[state.side], x = places(moments), layers = [moments.op.map(() => data.parameters), ...moments.live];
    const columns = { x, title: moments.op.map((op, i) => [moments.phase[i], op, moments.module[i]].filter(Boolean).join(", ")) };
    const sum = x.map(() => 0);
    layers.forEach((layer, index) => {
      columns[`low${index}`] = sum.map((value) => value / MIB);
      layer.forEach((value, i) => { sum[i] += value; });
      columns[`high${index}`] = sum.map((value) => value / MIB);
    });
    columns.top = sum.map((value) => value / MIB);
    columns.alive = x.map((_, i) => `${size(sum[i])}: ` + data.kinds.map((kind, k) => [layers[k][i], `${kind} ${size(layers[k][i])}`])
      .filter((each) => each[0]).map((each) => each[1]).join(", "));
    fill("live", columns);
    const ghost = data.moments[other()], total = ghost.op.map((_, i) => (data.parameters + ghost.live.reduce((s, layer) => s + layer[i], 0)) / MIB);
    fill("ghost", { x: places(ghost), top: total });
    const peak = moments.peak, bytes = sum[peak] - data.parameters;
    const phases = [...new Set(moments.phase)], plot = model("timeline");
    fill("peak", { x: [x[peak]], y: [columns.top[peak]], text: [`peak ${size(bytes)}` + (data.parameters ? " + parameters" : "")],
      align: [x[peak] > phases.length * 0.75 ? "right" : x[peak] < phases.length * 0.25 ? "left" : "center"] });
    const ticks = phases.map((_, i) => i + 0.5), labels = new Map(phases.map((phase, i) => [i + 0.5, phase]));
    plot.below[0].ticker = new (Bokeh.Models.get("FixedTicker"))({ ticks });
    plot.below[0].major_label_overrides = labels;
    plot.x_range.setv({ start: 0, end: phases.length });
    const highest = total.concat(columns.top).reduce((a, b) => Math.max(a, b), 0);
    plot.y_range.setv({ start: 0, end: highest * 1.12 });
    const list = document.createElement("ol");
    for (const [name, op, module, kind, count] of moments.alive) {
      const item = document.createElement("li");
      item.textContent = `${size(count)} ${kind}: ${name}${op && op !== name ? ` (${op})` : ""}${module ? ` in ${module}` : ""}`;
      list.append(item);
    }
    const heading = document.createElement("b");
    heading.textContent = moments.op.length ? `Alive at the peak of ${titles[state.side]}, ${size(bytes)}, in the ${moments.phase[peak]} at ${moments.op[peak]}`
      + (moments.module[peak] ? ` of ${moments.module[peak]}` : "") + (moments.more ? `: the largest ${moments.alive.length} of ${moments.alive.length + moments.more}` : "") : "Nothing is alive.";
    byId("alive").replaceChildren(heading, list);
  }

  // Graph ------------------------------------------------------------------------------------------------------------

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

  // Table ------------------------------------------------------------------------------------------------------------

  function shown() {
    const word = byId("filter").value.trim().toLowerCase(), by = Number(byId("sort").value);
    const rows = data.table[state.side].filter((row) => !word || row.some((cell) => String(cell).toLowerCase().includes(word)));
    if (by < 0) return rows;
    const order = (a, b) => (typeof a === "number" ? b - a : a.localeCompare(b, undefined, { numeric: true }));
    return rows.sort((a, b) => order(a[by], b[by]));
  }

  function drawTable() {
    const rows = shown(), columns = {};
    data.columns.forEach((name, at) => { columns[name] = rows.map((row) => row[at]); });
    fill("rows", columns);
    byId("rows").textContent = `${rows.length} of ${data.table[state.side].length} tensors`;
  }

  function csv() {
    const quoted = (cell) => (/[",\n]/.test(String(cell)) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell));
    return [data.columns, ...shown()].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
  }

  function copy() {
    const area = document.createElement("textarea");
    area.value = csv();
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    byId("rows").textContent = done ? `copied ${shown().length} rows` : "the browser did not allow to copy";
    byId("csv").focus();
  }

  // Page -------------------------------------------------------------------------------------------------------------

  function show(side) {
    state.side = side;
    for (const each of ["before", "after"]) byId(`show-${each}`).setAttribute("aria-pressed", String(each === side));
    draw();
    search(byId("search").value);
  }

  function draw() {
    drawRibbon();
    drawTimeline();
    drawGraph(true);
    drawTable();
  }

  function theme(dark) {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    byId("theme").textContent = dark ? "light" : "dark";
    const ink = dark ? "#e6e6e6" : "#222222", dim = dark ? "#8f959e" : "#6f6f6f";
    for (const name of ["ribbon", "timeline", "graph"]) {
      const plot = model(name);
      for (const axis of [...plot.below, ...plot.left].filter((each) => each.axis_label_text_color !== undefined))
        axis.setv({ axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: dim, major_tick_line_color: dim, minor_tick_line_color: dim });
      for (const renderer of plot.renderers) {
        const glyph = renderer.glyph;
        if (glyph.type === "Text" && name !== "graph") glyph.setv({ text_color: { value: ink } });
        if (["Step", "Scatter"].includes(glyph.type)) glyph.setv({ line_color: glyph.type === "Step" ? ink : { value: ink } });
        if (glyph.type === "Text" && name === "timeline") glyph.setv({ background_fill_color: { value: dark ? "#17181a" : "#ffffff" } });
        if (glyph.type === "Scatter") glyph.setv({ fill_color: { value: ink } });
      }
    }
  }

  function start() {
    const choices = byId("folds");
    data.ribbon.forEach((each, index) => choices.append(new Option(each.state === "folded" || each.state.startsWith("all") ? each.state : `${each.state} unfolded`, index)));
    if (data.ribbon.length < 2) choices.closest(".row").hidden = true;
    choices.addEventListener("change", () => fold(Number(choices.value)));
    byId("show-before").addEventListener("click", () => show("before"));
    byId("show-after").addEventListener("click", () => show("after"));
    byId("search").addEventListener("input", (event) => search(event.target.value));
    byId("filter").addEventListener("input", drawTable);
    data.columns.forEach((name, at) => byId("sort").append(new Option(name, at)));
    byId("sort").addEventListener("change", drawTable);
    byId("csv").addEventListener("click", copy);
    byId("collapse").addEventListener("click", () => { state.open.clear(); drawGraph(false); });
    byId("expand").addEventListener("click", () => {
      for (const path of data.order) {
        if (path === "") state.open.add(approxGraph.ROOT);
        else path.split(".").forEach((_, at, parts) => state.open.add(parts.slice(0, at + 1).join(".")));
      }
      drawGraph(false);
    });
    byId("graph-plot").addEventListener("keydown", keys);
    const tapped = (name, act) => {
      const source = model(name);
      source.selected.properties.indices.change.connect(() => {
        const [index] = source.selected.indices;
        if (index === undefined || state.busy) return;
        state.busy = true;
        source.selected.indices = [];
        act(index);
        state.busy = false;
      });
    };
    tapped("slots", clickSlot);
    tapped("units", press);
    const asked = window.matchMedia("(prefers-color-scheme: dark)");
    asked.addEventListener("change", () => theme(asked.matches));
    byId("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme !== "dark"));
    let width = narrow();
    window.addEventListener("resize", () => { if (narrow() !== width) { width = narrow(); draw(); } });
    const top = data.order.map((path) => path.split(".")[0]).filter(Boolean);
    if (new Set(top).size === 1) state.open.add(top[0]);
    draw();
    drawGraph(false);
    theme(asked.matches);
    Object.assign(page, { ready: true, reveal, choose, fold, csv, model, toggle });
  }

  const waiting = setInterval(() => {
    const roots = window.Bokeh && Bokeh.documents.length ? Bokeh.documents[0].roots() : [];
    if (roots.length === 4 && roots.every((root) => Bokeh.index.get_by_id ? Bokeh.index.get_by_id(root.id) : Bokeh.index[root.id])) {
      clearInterval(waiting);
      start();
    }
  }, 20);
})();
