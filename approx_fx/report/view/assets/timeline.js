// The timeline: live bytes by kind, the other partition's as an outline, and what is alive at the peak.

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
