"use strict";

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// --- Figures: drawn when they come into view, in the colours of the page ---

const figures = JSON.parse(document.getElementById("figures").textContent);
const drawn = new Set();

function colours(figure) {
  const ink = style("--ink"), line = style("--line");
  const change = { "font.color": ink, "hoverlabel.bgcolor": style("--box"), "hoverlabel.font.color": ink };
  for (const key of Object.keys(figure.layout)) {
    if (/^[xy]axis/.test(key)) {
      Object.assign(change, { [key + ".gridcolor"]: line, [key + ".linecolor"]: line,
        [key + ".zerolinecolor"]: line, [key + ".tickcolor"]: line, [key + ".color"]: ink });
    }
  }
  return change;
}

function layout(figure) {
  const small = window.innerWidth < 700;
  const many = figure.data.length > 8;
  const change = { showlegend: !(small && many) };
  change.legend = small ? { orientation: "h", y: -0.25 } : { orientation: "v" };
  return change;
}

async function draw(element) {
  const figure = figures[element.id];
  if (!figure || drawn.has(element)) return;
  drawn.add(element);
  if (!figure.data.every((trace) => trace.showlegend === false)) {
    Object.assign(figure.layout, layout(figure));
  }
  const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  await Plotly.newPlot(element, figure.data, figure.layout, options);
  await Plotly.relayout(element, colours(figure));
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
}, { rootMargin: "300px" });
document.querySelectorAll(".plot").forEach((element) => watcher.observe(element));

function recolour() {
  for (const element of drawn) Plotly.relayout(element, colours(figures[element.id]));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
addEventListener("beforeprint", () => {
  document.querySelectorAll(".plot").forEach(draw);
  recolour();
});
addEventListener("afterprint", recolour);

// --- The table: sorted by a click on a heading, filtered by words ---

const table = document.getElementById("table");
const body = table.tBodies[0];
const headings = [...table.tHead.rows[0].cells];
const names = headings.map((heading) => heading.textContent.trim());
const rows = [...body.rows].map((row) => ({
  row,
  keys: [...row.cells].map((cell) => cell.dataset.key ?? cell.textContent),
  text: [...row.cells].map((cell, index) => names[index] + "=" + cell.textContent).join(" ").toLowerCase(),
}));

function compare(a, b) {
  if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1;
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
}

headings.forEach((heading, index) => heading.firstElementChild.addEventListener("click", () => {
  const down = heading.getAttribute("aria-sort") === "ascending";
  headings.forEach((other) => other.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const sign = down ? -1 : 1;
  rows.sort((a, b) => {
    const empty = (a.keys[index] === "") - (b.keys[index] === "");
    return empty || sign * compare(a.keys[index], b.keys[index]);
  });
  body.append(...rows.map((each) => each.row));
}));

function passes(each, word) {
  const match = /^([^<>=]+)(<=|>=|<|>|=)(.+)$/.exec(word);
  const index = match ? names.findIndex((name) => name.toLowerCase() === match[1]) : -1;
  if (index < 0) return each.text.includes(word);
  const [key, wanted] = [each.keys[index], match[3]];
  const order = key === "" ? NaN : compare(key, wanted);
  switch (match[2]) {
    case "<": return order < 0;
    case ">": return order > 0;
    case "<=": return order <= 0;
    case ">=": return order >= 0;
    default: return order === 0 || key.toLowerCase() === wanted;
  }
}

const filter = document.getElementById("filter");
const count = document.getElementById("count");

function choose() {
  const words = filter.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
  let left = 0;
  for (const each of rows) {
    each.row.hidden = !words.every((word) => passes(each, word));
    left += !each.row.hidden;
  }
  count.textContent = words.length ? `${left} of ${rows.length} runs` : "";
}
filter.addEventListener("input", choose);
