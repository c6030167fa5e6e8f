// The joint graph, laid out for what is open: one cell for each closed module, one for each run of ops of an open one.
// Cells go from top to bottom in the forward's order; in each, the forward's boxes lie left, the backward's right, the
// ops of a side in layers: an op lies below what it reads, in the backward above it, since that runs upwards.

const approxGraph = (() => {
  const ROOT = "(model)";

  // The box a node lies in: the outermost closed module around it, or its own, where all around it are open.
  function placeOf(path, open) {
    if (path === "") return open.has(ROOT) ? [ROOT, true] : [ROOT, false];
    const parts = path.split(".");
    for (let length = 1; length <= parts.length; length++) {
      const head = parts.slice(0, length).join(".");
      if (!open.has(head)) return [head, false];
    }
    return [path, true];
  }

  function cellsOf(nodes, paths, open) {
    const cells = [], runs = new Map(), seen = new Map();
    const keyOf = (index) => {
      const path = paths[nodes.module[index]];
      if (!seen.has(path)) seen.set(path, placeOf(path, open));
      return seen.get(path);
    };
    const enter = (path, ops) => {
      const cell = { path, ops, forward: [], backward: [] };
      cells.push(cell);
      const key = path + (ops ? "|ops" : "");
      if (!runs.has(key)) runs.set(key, []);
      runs.get(key).push(cell);
      return cell;
    };
    const count = nodes.name.length;
    let last = null;
    for (let i = 0; i < count && !nodes.backward[i]; i++) {
      const [path, ops] = keyOf(i), made = runs.get(path + (ops ? "|ops" : ""));
      if (!last || last.path !== path || last.ops !== ops) last = made && !ops ? made[0] : enter(path, ops);
      last.forward.push(i);
    }
    // The backward's runs, from its end, belong to the forward's runs from its start.
    const reached = new Map();
    let key = null, place = 0;
    for (let i = count - 1; i >= 0 && nodes.backward[i]; i--) {
      const [path, ops] = keyOf(i), own = path + (ops ? "|ops" : "");
      if (own !== key) {
        key = own;
        place = reached.has(own) ? reached.get(own) + 1 : 0;
        reached.set(own, place);
      }
      const made = runs.get(own) || [enter(path, ops)];
      made[Math.min(place, made.length - 1)].backward.push(i);
    }
    return cells;
  }

  // Node -> layer: 0 for what reads nothing in the cell, else one more than the highest of what it reads.
  function layersOf(members, nodes) {
    const level = new Map();
    for (const i of [...members].sort((a, b) => a - b)) {
      let own = 0;
      for (const source of nodes.reads[i]) if (level.has(source)) own = Math.max(own, level.get(source) + 1);
      level.set(i, own);
    }
    const layers = [];
    for (const [i, own] of level) (layers[own] = layers[own] || []).push(i);
    return layers;
  }

  // Layers cut into rows of at most `across` boxes.
  function rowsOf(layers, across) {
    const rows = [];
    for (const layer of layers) for (let at = 0; at < layer.length; at += across) rows.push(layer.slice(at, at + across));
    return rows;
  }

  function layout(nodes, paths, open, across) {
    const units = [], unitOf = new Int32Array(nodes.name.length).fill(-1);
    const add = (unit, members) => {
      for (const i of members) unitOf[i] = units.length;
      units.push({ ...unit, members });
    };
    const wide = across, centre = (place, side) => side * (0.75 + 1.1 * place);
    let top = 0;
    for (const cell of cellsOf(nodes, paths, open)) {
      let height = 1;
      if (!cell.ops) {
        if (cell.forward.length) add({ x: centre(0, -1), y: top, path: cell.path, ops: false, side: "forward" }, cell.forward);
        if (cell.backward.length) add({ x: centre(0, 1), y: top, path: cell.path, ops: false, side: "backward" }, cell.backward);
      } else {
        const forward = rowsOf(layersOf(cell.forward, nodes), wide), backward = rowsOf(layersOf(cell.backward, nodes), wide);
        height = Math.max(forward.length, backward.length, 1);
        forward.forEach((row, y) => row.forEach((i, place) =>
          add({ x: centre(place, -1), y: top + y, path: cell.path, ops: true, side: "forward" }, [i])));
        backward.forEach((row, y) => row.forEach((i, place) =>
          add({ x: centre(place, 1), y: top + backward.length - 1 - y, path: cell.path, ops: true, side: "backward" }, [i])));
      }
      top += height;
    }
    return { units, unitOf, height: top, ...edgesOf(nodes, units, unitOf), chains: chainsOf(nodes, units) };
  }

  function edgesOf(nodes, units, unitOf) {
    const thin = new Map(), bold = new Map();
    for (let i = 0; i < nodes.name.length; i++) {
      for (const source of nodes.reads[i]) {
        const from = unitOf[source], to = unitOf[i];
        if (from !== to) thin.set(from * units.length + to, [from, to]);
      }
      for (const source of nodes.saved[i]) {
        const from = unitOf[source], to = unitOf[i], key = from * units.length + to;
        const known = bold.get(key) || [from, to, 0, source];
        known[2] += nodes.bytes[source];
        bold.set(key, known);
      }
    }
    return { thin: [...thin.values()], bold: [...bold.values()] };
  }

  // The ground of each chain: what surrounds the boxes that hold nodes of it and of no other chain.
  function chainsOf(nodes, units) {
    const found = new Map();
    for (const unit of units) {
      if (unit.side !== "forward") continue;
      const chains = new Set(unit.members.map((i) => nodes.chain[i]).filter((chain) => chain >= 0));
      if (chains.size !== 1) continue;
      const [chain] = chains, box = found.get(chain) || [Infinity, -Infinity, Infinity, -Infinity, 0];
      found.set(chain, [Math.min(box[0], unit.x - 0.56), Math.max(box[1], unit.x + 0.56),
        Math.min(box[2], unit.y - 0.42), Math.max(box[3], unit.y + 0.42), box[4] + 1]);
    }
    return [...found.values()];
  }

  // A line from box to box; where it would pass over boxes between, bent outwards.
  function line(a, b) {
    if (a.side !== b.side) return [[a.x + 0.5 * Math.sign(b.x - a.x), b.x - 0.5 * Math.sign(b.x - a.x)], [a.y, b.y]];
    const down = Math.sign(b.y - a.y), far = Math.abs(b.y - a.y) > 1.5 && Math.abs(a.x - b.x) < 0.3;
    const ends = [a.y + 0.33 * down, b.y - 0.33 * down];
    if (!far) return [[a.x, b.x], ends];
    const out = a.x + (a.side === "forward" ? -0.55 : 0.55);
    return [[a.x, out, out, b.x], [ends[0], ends[0] + 0.3 * down, ends[1] - 0.3 * down, ends[1]]];
  }

  return { layout, line, ROOT };
})();
