// The table: rows filtered and sorted, and copied as CSV.

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
