"use strict";
// What the page shows: its content, which comes in parts, and the view of it that the user chose.

const content = { about: {}, columns: [], figures: [], words: "", notes: "",
  run: new Map(), curves: new Map(), sample: new Map(), figure: new Map(), problem: new Map() };

const view = {
  filter: "",
  sort: null, // id of a column; null for the best first
  descending: false,
  group: "", // id of a column
  columns: new Map(), // id: whether the user shows it; others are shown unless they have a group
  selected: new Set(), // names of runs
  closed: new Set(), // groups
  across: "step", // "tokens" or "seconds"
  smoothing: 0,
  logX: false,
  logY: false,
};

// Take parts as they come; those of a run have its name after their kind.
function take(parts, removed = []) {
  for (const [key, part] of Object.entries(parts)) {
    const [kind, name] = splitKey(key);
    if (name === null) content[kind] = part;
    else content[kind].set(name, part);
  }
  for (const key of removed) {
    const [kind, name] = splitKey(key);
    content[kind].delete(name);
    if (kind === "run") view.selected.delete(name);
  }
}

function splitKey(key) {
  const at = key.indexOf("/");
  return at < 0 ? [key, null] : [key.slice(0, at), key.slice(at + 1)];
}

const read = (id) => JSON.parse(document.getElementById(id).textContent);

// --- Cells of the table ---

const textOf = (run, index) => typeof run.cells[index] === "string" ? run.cells[index] : run.cells[index][0];
const keyOf = (run, index) => typeof run.cells[index] === "string" ? run.cells[index] : run.cells[index][1];
const columnOf = (id) => content.columns.findIndex((column) => column.id === id);
const isShown = (column) => view.columns.get(column.id) ?? column.group === "";

// Numbers by size, others by their text; empty cells last.
function compareKeys(a, b) {
  if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1;
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
}

// --- The runs that pass the filter, the best first: in the table and in every chart ---

let chosen = null; // until something changes

function chosenRuns() {
  if (chosen === null) {
    const sign = content.about.lower_is_better ? 1 : -1;
    chosen = sortedBy(columnOf("score"), sign, [...content.run].filter(passesFilter(view.filter)), placeOf);
  }
  return chosen;
}

// Runs that were stopped early follow the others; those without a score come last.
const placeOf = (run) => run.ranked ? Number(run.early) : 2;

const isFiltered = () => view.filter.trim() !== "";

// Return the names of runs in the order of their `place`, then of a column; those without a value last.
function sortedBy(index, sign, runs, place = () => 0) {
  const keyed = runs.map(([name, run]) => ({ name, key: keyOf(run, index), place: place(run) }));
  keyed.sort((a, b) => a.place - b.place || (a.key === "") - (b.key === "") || sign * compareKeys(a.key, b.key));
  return keyed.map(({ name }) => name);
}

// Return at most `most` of the runs: the selected, the best, and an even part of the others.
function someRuns(names, most) {
  if (names.length <= most) return names;
  const kept = new Set(names.filter((name) => view.selected.has(name)).slice(0, most));
  const others = names.filter((name) => !kept.has(name));
  const room = most - kept.size, best = Math.floor(room / 2);
  for (let i = 0; i < room; i++) {
    kept.add(others[i < best ? i : best + Math.floor((i - best) * (others.length - best) / (room - best))]);
  }
  return names.filter((name) => kept.has(name));
}

// --- Small helpers for the page's elements ---

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const find = (selector) => document.querySelector(selector);
