"use strict";
// Charts: drawn when they come into view, in the colours of the page, of the runs in the table.

const plots = new Map(); // id: its section and plot, and what it shows
const gallery = find(".plots");
const PAPER = { "--ink": "#000", "--line": "#bbb", "--box": "#fff", "--ground": "#ffffff" };
const PAPER_WIDTH = 660; // of A4 with its margins, in pixels of CSS
const NOT_PARALLEL = ["zoom2d", "pan2d", "select2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"];
const OPTIONS = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d"],
  showSendToCloud: false, plotlyServerURL: "" }; // what the page shows leaves it in no way
const MOST_DRAWN = 250; // runs in one chart: more hide one another, and take long
let printing = false;
let isDrawing = false;
let changes = 0; // of the view; a box that selected something goes with the next

const watching = (property, rootMargin) => new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const plot = plots.get(entry.target.dataset.id);
    if (!plot) continue;
    plot[property] = entry.isIntersecting;
    if (plot[property] && plot.isStale) drawNext();
  }
}, { rootMargin });
const watchers = [watching("isVisible", "0px"), watching("isNear", "300px")];

// --- Sections: one for each figure, in their order ---

function placePlots() {
  for (const [id, plot] of plots) {
    if (content.figures.includes(id)) continue;
    for (const watcher of watchers) watcher.unobserve(plot.section);
    plot.section.remove();
    plots.delete(id);
  }
  content.figures.forEach((id, index) => {
    const figure = content.figure.get(id);
    const plot = plots.get(id) ?? newPlot(id);
    const { section, element } = plot;
    if (plot.figure !== figure) {
      plot.figure = figure;
      section.className = figure.wide ? "wide" : "narrow";
      section.querySelector("h2").textContent = figure.title;
      element.setAttribute("aria-label", figure.caption);
      section.querySelector("p").textContent = figure.caption;
    }
    if (gallery.children[index] !== section) gallery.insertBefore(section, gallery.children[index] ?? null);
  });
}

function newPlot(id) {
  const element = make("div", { id, className: "plot" });
  element.setAttribute("role", "img");
  const section = make("section", {}, make("h2"), element, make("p", { className: "quiet" }));
  section.dataset.id = id;
  const plot = { id, section, element, isStale: true, isVisible: false, isNear: false, isDrawn: false };
  plots.set(id, plot);
  for (const watcher of watchers) watcher.observe(section);
  return plot;
}

// Draw what is in view, then what is near, one chart at a time so that the page answers in between.
function renderPlots() {
  changes += 1;
  for (const plot of plots.values()) plot.isStale = true;
  if (!isDrawing) setTimeout(drawNext);
  isDrawing = true;
}

function drawNext() {
  const stale = [...plots.values()].filter((plot) => plot.isStale);
  const next = stale.find((plot) => plot.isVisible) ?? stale.find((plot) => plot.isNear);
  isDrawing = next !== undefined && typeof Plotly !== "undefined"; // it is loaded last
  if (!isDrawing) return;
  draw(next);
  setTimeout(drawNext);
}

// --- One chart ---

function draw(plot) {
  const { figure, element } = plot;
  plot.isStale = false;
  const { data, layout, note } = figure.kind === "curves" ? drawCurves(figure) : drawPoints(figure);
  if (figure.kind === "parallel") showBrushes(figure, data, layout);
  layout.uirevision ??= "kept"; // zoom and hidden names stay when data come
  layout.selectionrevision = changes;
  if (!data.every((trace) => trace.showlegend === false)) Object.assign(layout, legend(data, layout, element));
  color(layout);
  if (printing) layout.width = PAPER_WIDTH;
  plot.section.querySelector("p").textContent = [figure.caption, note].filter(Boolean).join(" ");
  const removed = figure.kind === "parallel" ? NOT_PARALLEL : []; // dragging there selects
  Plotly.react(element, data, layout, { ...OPTIONS,
    modeBarButtonsToRemove: [...OPTIONS.modeBarButtonsToRemove, ...removed] });
  if (!plot.isDrawn) listen(plot);
  plot.isDrawn = true;
}

// Traces with the names of runs as `customdata` show those in the table, and mark the selected.
function drawPoints(figure) {
  const layout = structuredClone(figure.layout);
  const shown = new Set(someRuns(chosenRuns(), MOST_DRAWN));
  const isAll = shown.size === content.run.size;
  let data = figure.data.map((trace) => !trace.customdata || isAll ? { ...trace } : onlyPoints(trace, shown));
  if (view.selected.size) data = data.flatMap(figure.kind === "parallel" ? withSelectedLines : withSelectedPoints);
  const isPart = shown.size < chosenRuns().length && data.some((trace) => trace.customdata);
  return { data, layout, note: isPart ? `Drawn are ${shown.size} of ${chosenRuns().length} runs.` : "" };
}

function onlyPoints(trace, names) {
  const kept = trace.customdata.map((name) => names.has(name));
  const only = (values) => Array.isArray(values) && values.length === kept.length
    ? values.filter((_, index) => kept[index]) : values;
  const parts = Object.fromEntries(Object.entries(trace).map(([key, value]) => [key, only(value)]));
  const marker = trace.marker && Object.fromEntries(
    Object.entries(trace.marker).map(([key, value]) => [key, only(value)]));
  return { ...parts, ...(marker && { marker }) };
}

function withSelectedPoints(trace) {
  if (!trace.customdata) return [trace];
  const selectedpoints = trace.customdata.flatMap((name, index) => view.selected.has(name) ? [index] : []);
  return [{ ...trace, selectedpoints, selected: { marker: { opacity: 1 } }, unselected: { marker: { opacity: 0.15 } } }];
}

function withSelectedLines(trace) {
  const faint = { ...trace, opacity: 0.2 };
  const chosen = onlyPoints(trace, view.selected);
  if (!chosen.x.length) return [faint];
  return [faint, { ...chosen, showlegend: false, opacity: 1, line: { ...trace.line, width: 4 } }];
}

function legend(data, layout, element) {
  const small = window.innerWidth < 700;
  const above = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" };
  if (layout.xaxis?.side === "top") Object.assign(above, { y: 0, yanchor: "top" });
  const place = small || element.closest(".narrow") ? above : { orientation: "v" };
  return { showlegend: !(small && data.length > 8), legend: { ...layout.legend, ...place } };
}

// --- Colours of the page, light or dark, or of paper ---

const tone = (name) => printing ? PAPER[name]
  : getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function color(layout) {
  const ink = tone("--ink"), line = tone("--line");
  layout.font = { ...layout.font, color: ink };
  layout.hoverlabel = { bgcolor: tone("--box"), font: { color: ink } };
  for (const key of Object.keys(layout)) {
    if (!/^[xy]axis/.test(key)) continue;
    layout[key] = { ...layout[key], gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, color: ink };
  }
  for (const annotation of layout.annotations ?? []) annotation.bgcolor = tone("--ground") + "b0"; // text stands on lines
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", renderPlots);

// --- Selection in a chart: a click on a run, or a box around some ---

const runAt = (point) => point.data.meta?.run ?? [point.customdata].flat()[0];

function listen(plot) {
  const { element } = plot;
  element.on("plotly_click", ({ points }) => {
    const names = [...new Set(points.map(runAt))].filter((name) => content.run.has(name));
    if (names.length) toggle(names.slice(0, 1));
  });
  element.on("plotly_selected", (box) => {
    if (!box) return;
    if (plot.figure.kind === "parallel") brush(plot.figure, box.range);
    else toggle([...new Set(box.points.map(runAt))].filter((name) => content.run.has(name)), true);
  });
}
