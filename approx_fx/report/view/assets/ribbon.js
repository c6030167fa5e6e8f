// The ribbon: saved tensors as bands from where they are made to whose backward reads them, in one state of folding.

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
