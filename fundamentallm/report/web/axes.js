"use strict";
// Parallel coordinates: dragging over an axis writes into the filter, which all charts follow.

// The column of an axis; the last axis is the score's.
const columnOfAxis = (name) => content.columns[name === "" ? columnOf("score") : columnOf(`setting/${name}`)];

// Keep the runs between `y` on the axes that a box covers, or on the nearest one.
function brush(figure, range) {
  if (!range) return;
  const [left, right] = [...range.x].sort((a, b) => a - b);
  const [low, high] = [...range.y].sort((a, b) => a - b);
  const { axes } = figure.details;
  const places = axes.map((_, place) => place);
  let covered = places.filter((place) => left <= place && place <= right);
  if (!covered.length) {
    const middle = (left + right) / 2;
    covered = [places.reduce((a, b) => Math.abs(a - middle) <= Math.abs(b - middle) ? a : b)];
  }
  const before = view.filter;
  for (const place of covered) {
    const runs = runsAt(figure.data, place, (y) => low <= y && y <= high);
    const column = columnOfAxis(axes[place]);
    if (column && runs.length) filterColumn(column, wordsFor(column, runs));
  }
  if (view.filter === before) render(); // the box goes
}

// Return the runs whose line passes an axis where `holds` is true.
function runsAt(traces, place, holds) {
  return traces.flatMap((trace) => (trace.customdata ?? [])
    .filter((_, index) => trace.x[index] === place && holds(trace.y[index])));
}

// Return the words that keep the values of these runs: a range of numbers, or the values.
function wordsFor(column, names) {
  const index = content.columns.indexOf(column);
  const keys = [...new Set(names.map((name) => keyOf(content.run.get(name), index)))].sort(compareKeys);
  const word = wordFor(column);
  if (keys.some((key) => key === "" || Number.isNaN(Number(key)))) {
    return [`${word}=${keys.map(quoted).join("|")}`];
  }
  return keys.length === 1 ? [`${word}=${keys[0]}`]
    : [`${word}>=${rounded(keys[0], Math.floor)}`, `${word}<=${rounded(keys.at(-1), Math.ceil)}`];
}

// Return a number of four digits, rounded so that the range still holds it.
function rounded(key, towards) {
  const number = Number(key);
  if (number === 0) return key;
  const unit = 10 ** (Math.floor(Math.log10(Math.abs(number))) - 3);
  return String(Number((towards(number / unit - (towards === Math.ceil ? 1e-9 : -1e-9)) * unit).toPrecision(4)));
}

// Mark the part of each axis that the filter keeps.
function showBrushes(figure, data, layout) {
  const words = wordsOf(view.filter);
  layout.shapes = figure.details.axes.flatMap((name, place) => {
    const column = columnOfAxis(name);
    if (!column || !words.some((word) => isAbout(word, column))) return [];
    const heights = data.flatMap((trace) => trace.y.filter((_, index) => trace.x[index] === place));
    if (!heights.length) return [];
    const [y0, y1] = [heights.reduce((a, b) => Math.min(a, b)), heights.reduce((a, b) => Math.max(a, b))];
    return [{ type: "rect", x0: place - 0.04, x1: place + 0.04, y0: y0 - 0.02, y1: y1 + 0.02,
      line: { width: 1, color: tone("--link") }, fillcolor: tone("--link"), opacity: 0.25 }];
  });
}
