// What all parts of the page share: its data, what is chosen, the figures.

const data = JSON.parse(document.getElementById("approx-data").textContent);
const byId = (id) => document.getElementById(id);
const narrow = () => window.innerWidth < 700;
const MIB = 2 ** 20;
const state = { side: "after", fold: 0, open: new Set(), drawn: null };
const page = (window.approxPage = { data });

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
