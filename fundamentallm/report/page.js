"use strict";

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// --- Figures: drawn when they come into view, in the colours of the page ---

const figures = JSON.parse(document.getElementById("figures").textContent);
const drawn = new Set();

const PAPER = { "--ink": "#000", "--line": "#bbb", "--box": "#fff", "--ground": "#ffffff" };
const PAPER_WIDTH = 660; // of A4 with its margins, in pixels of CSS
let printing = false;

const colour = (name) => printing ? PAPER[name] : style(name);

function colours(figure) {
  const ink = colour("--ink"), line = colour("--line");
  const change = { "font.color": ink, "hoverlabel.bgcolor": colour("--box"), "hoverlabel.font.color": ink };
  for (const key of Object.keys(figure.layout)) {
    if (/^[xy]axis/.test(key)) {
      Object.assign(change, { [key + ".gridcolor"]: line, [key + ".linecolor"]: line,
        [key + ".zerolinecolor"]: line, [key + ".tickcolor"]: line, [key + ".color"]: ink });
    }
  }
  (figure.layout.annotations ?? []).forEach((_, index) => {
    change[`annotations[${index}].bgcolor`] = colour("--ground") + "b0"; // text stands on lines
  });
  return change;
}

function layout(figure, element) {
  const small = window.innerWidth < 700;
  const many = figure.data.length > 8;
  const above = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" };
  if (figure.layout.xaxis?.side === "top") Object.assign(above, { y: 0, yanchor: "top" });
  return { showlegend: !(small && many),
    legend: small || element.closest(".narrow") ? above : { orientation: "v" } };
}

async function draw(element) {
  const figure = figures[element.id];
  if (!figure || drawn.has(element)) return;
  drawn.add(element);
  if (!figure.data.every((trace) => trace.showlegend === false)) {
    Object.assign(figure.layout, layout(figure, element));
  }
  const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"],
    showSendToCloud: false, plotlyServerURL: "" }; // what the page shows leaves it in no way
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

// What is printed is laid out for the paper, which the window knows nothing of.
addEventListener("beforeprint", () => {
  printing = true;
  printSome();
  document.querySelectorAll(".plot").forEach((element) => {
    draw(element);
    Plotly.relayout(element, { ...colours(figures[element.id]), width: PAPER_WIDTH });
  });
});
addEventListener("afterprint", () => {
  printing = false;
  for (const element of drawn) Plotly.relayout(element, { width: null, autosize: true });
  recolour();
});

// --- The table: sorted by a click on a heading, filtered by words ---

const table = document.getElementById("table");
const body = table.tBodies[0];
const headings = [...table.tHead.rows[0].cells];
const names = headings.map((heading) => heading.textContent.trim());
const rows = [...body.rows].map((row) => ({
  row,
  keys: [...row.cells].map((cell) => cell.dataset.key ?? cell.textContent),
  cells: [...row.cells].map((cell) => cell.textContent.toLowerCase()),
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
  const index = match ? names.findIndex((name) => name.toLowerCase().replaceAll(" ", "_") === match[1]) : -1;
  if (index < 0) return each.text.includes(word);
  const [key, wanted] = [each.keys[index], match[3]];
  const order = key === "" ? NaN : compare(key, wanted);
  switch (match[2]) {
    case "<": return order < 0;
    case ">": return order > 0;
    case "<=": return order <= 0;
    case ">=": return order >= 0;
    default: return order === 0 || key.toLowerCase() === wanted || each.cells[index] === wanted;
  }
}

const filter = document.getElementById("filter");
const count = document.getElementById("count");

function choose() {
  const words = filter.value.toLowerCase().replace(/\s*(<=|>=|<|>|=)\s*/g, "$1").split(/\s+|,(?!\d)/).filter(Boolean);
  let left = 0;
  for (const each of rows) {
    each.row.hidden = !words.every((word) => passes(each, word));
    left += !each.row.hidden;
  }
  count.textContent = words.length ? `${left} of ${rows.length} runs` : "";
}
filter.addEventListener("input", choose);

const MOST_PRINTED = 100;

function printSome() {
  const chosen = rows.map((each) => each.row).filter((row) => !row.hidden);
  chosen.forEach((row, index) => row.classList.toggle("unprinted", index >= MOST_PRINTED));
  document.getElementById("printed").textContent = chosen.length > MOST_PRINTED
    ? `Printed are ${MOST_PRINTED} of ${chosen.length} runs.` : "";
}
