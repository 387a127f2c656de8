"use strict";
// Curves of the runs in the table: over steps, tokens or seconds, smoothed, on linear or log axes.

const AXES = { step: "step", tokens: "tokens", seconds: "seconds of training" };

// Return the traces and axes of a figure of kind `curves`.
function drawCurves(figure) {
  const names = curvesToDraw(figure.details);
  const many = names.length > content.about.palette.length;
  const range = figure.layout.yaxis.range;
  const traces = [], edges = [];
  names.forEach((name, index) => {
    const color = colorOf(index, names.length);
    for (const line of figure.details.lines) {
      const points = pointsOf(name, line.metric);
      if (!points) continue;
      traces.push(curve(name, line, points, { color, index, many }));
      if (range && line.dash === "solid") edges.push(...beyond(name, points, range, color));
    }
  });
  if (edges.length) traces.push(edgeMarkers(edges));
  const layout = structuredClone(figure.layout);
  const across = view.across in AXES ? view.across : "step";
  layout.xaxis = { ...layout.xaxis, title: { text: AXES[across] }, type: view.logX ? "log" : "linear" };
  layout.yaxis = { ...layout.yaxis, type: view.logY ? "log" : "linear" };
  if (range && view.logY) layout.yaxis.range = logRange(range, traces);
  layout.uirevision = [across, view.logX, view.logY].join(); // a zoom stays until the axes change
  return { data: traces, layout, note: names.length < chosenRuns().length
    ? `Drawn are ${names.length} of ${chosenRuns().length} runs.` : "" };
}

function curvesToDraw({ most, lines }) {
  const has = (name) => !content.run.get(name).repeats
    && lines.some(({ metric }) => content.curves.get(name)?.lines[metric]);
  return someRuns(chosenRuns().filter(has), most);
}

function pointsOf(name, metric) {
  const curves = content.curves.get(name);
  const line = curves?.lines[metric];
  if (!line) return null;
  const [steps, values] = line;
  const clock = view.across === "step" ? null : curves.clocks[view.across];
  if (!clock && view.across !== "step") return null;
  return { x: clock ? steps.map((step) => at(clock, step)) : steps, y: smoothed(values, view.smoothing) };
}

// Tokens or seconds at a step: known at some steps, and in between in proportion.
function at([steps, values], step) {
  let low = -1, high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle; else high = middle;
  }
  const [x0, y0] = low < 0 ? [0, 0] : [steps[low], values[low]];
  const [x1, y1] = [steps[high], values[high]];
  return x1 === x0 ? y1 : y0 + (y1 - y0) * (step - x0) / (x1 - x0);
}

// Exponential moving average without the pull of its start (as Adam corrects its moments).
function smoothed(values, weight) {
  if (!weight) return values;
  let mean = 0, sum = 0;
  return values.map((value) => {
    mean = weight * mean + (1 - weight) * value;
    sum = weight * sum + (1 - weight);
    return mean / sum;
  });
}

function curve(name, line, { x, y }, { color, index, many }) {
  const isSolid = line.dash === "solid";
  const emphasis = view.selected.size === 0 ? 1 : view.selected.has(name) ? 2 : 0.5;
  const label = markupFree(name) + (line.word && !many ? ` ${line.word}` : "");
  return {
    type: "scatter", uid: uidOf(`${name}/${line.metric}`), meta: { run: name }, x, y, name: label,
    mode: x.length < 3 ? "lines+markers" : "lines",
    line: { color, dash: line.dash, width: (isSolid ? 2 : 1) * Math.max(1, emphasis) },
    opacity: (isSolid ? 1 : 0.6) * (emphasis < 1 ? 0.25 : 1),
    legendgroup: many ? String(index) : undefined, showlegend: !many || isSolid,
    hovertemplate: `%{fullData.name}<br>${AXES[view.across]} %{x:.6~g}: %{y:.5g}<extra></extra>`,
  };
}

// Plotly knows a trace by its uid, of which it makes a class name.
const uids = new Map();
const uidOf = (text) => {
  if (!uids.has(text)) uids.set(text, `trace${uids.size}`);
  return uids.get(text);
};

// Plotly takes tags in text for markup.
const markupFree = (text) => {
  const short = text.length <= 60 ? text : text.slice(0, 59) + "…";
  return short.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
};

// --- Values beyond the axis, marked at its edge: where a curve leaves it, and at the curve's end ---

function beyond(name, { x, y }, [low, high], color) {
  const isOut = (value) => value > high || value < low;
  const marks = [];
  y.forEach((value, index) => {
    const leaves = index > 0 && !isOut(y[index - 1]);
    if (isOut(value) && (leaves || index === y.length - 1)) {
      marks.push({ x: x[index], value, edge: value > high ? high : low, name, color });
    }
  });
  return marks.slice(-3);
}

function edgeMarkers(edges) {
  return {
    type: "scatter", uid: "edges", mode: "markers", showlegend: false, cliponaxis: false,
    x: edges.map((each) => each.x), y: edges.map((each) => each.edge),
    customdata: edges.map((each) => each.name),
    text: edges.map((each) => `${markupFree(each.name)}: ${plain(each.value)}, beyond the axis`),
    marker: { size: 9, color: edges.map((each) => each.color),
      symbol: edges.map((each) => each.value === each.edge || each.value > each.edge ? "triangle-up" : "triangle-down") },
    hovertemplate: "%{text}<extra></extra>",
  };
}

function logRange([low, high], traces) {
  const values = traces.flatMap((trace) => trace.y).filter((value) => value > 0);
  if (!values.length || high <= 0) return undefined;
  const least = low > 0 ? low : values.reduce((a, b) => Math.min(a, b));
  return [Math.log10(Math.min(least, high)), Math.log10(high)];
}

// --- Colors: of a few runs one each, of many from the best to the worst ---

function colorOf(index, count) {
  const { palette, scale } = content.about;
  if (count <= palette.length) return palette[index];
  const place = index / (count - 1) * (scale.length - 1);
  const low = Math.min(Math.floor(place), scale.length - 2);
  const parts = (color) => [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
  const [from, to] = [parts(scale[low]), parts(scale[low + 1])];
  return `rgb(${from.map((part, i) => Math.round(part + (to[i] - part) * (place - low))).join()})`;
}

// --- The controls of all curves ---

const across = find("#across");

function renderAcross() {
  const known = new Set(["step"]);
  for (const { clocks } of content.curves.values()) for (const name of Object.keys(clocks)) known.add(name);
  const names = Object.keys(AXES).filter((name) => known.has(name));
  if (names.length !== across.options.length) {
    across.replaceChildren(...names.map((name) => make("option", { value: name, textContent: AXES[name] })));
  }
  if (!known.has(view.across)) view.across = "step";
  across.value = view.across;
}

across.addEventListener("change", () => { view.across = across.value; render(); });
find("#smoothing").addEventListener("input", (event) => { view.smoothing = Number(event.target.value); render(); });
find("#log-x").addEventListener("change", (event) => { view.logX = event.target.checked; render(); });
find("#log-y").addEventListener("change", (event) => { view.logY = event.target.checked; render(); });
