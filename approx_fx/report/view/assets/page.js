// Wires the page: switches, colours, and the first drawing once bokeh has made its figures.

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
  Object.assign(page, { csv, model });
}

const waiting = setInterval(() => {
  const roots = window.Bokeh && Bokeh.documents.length ? Bokeh.documents[0].roots() : [];
  if (roots.length === 4 && roots.every((root) => Bokeh.index.get_by_id ? Bokeh.index.get_by_id(root.id) : Bokeh.index[root.id])) {
    clearInterval(waiting);
    start();
  }
}, 20);
