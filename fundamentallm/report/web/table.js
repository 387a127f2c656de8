"use strict";
// The table of runs: sorted, filtered and grouped, with the columns that the user chose.

const table = find("#table");
const scroller = table.parentElement;
const MORE = 200; // rows that are added when the user comes near the end
let limit = MORE;
let itemCount = 0;
const rowOf = new Map(); // name of a run: its row, and what it was made of
const groupRowOf = new Map(); // value of a group: its row

const shownColumns = () => content.columns.map((column, index) => [column, index]).filter(([column]) => isShown(column));

function renderTable() {
  const columns = shownColumns();
  const layout = columns.map(([column]) => column.id).join("\n");
  if (table.dataset.layout !== layout) renderHeadings(columns);
  table.dataset.layout = layout;
  for (const heading of table.tHead.rows[0].cells) {
    const isSorted = heading.dataset.id === view.sort;
    heading.setAttribute("aria-sort", isSorted ? (view.descending ? "descending" : "ascending") : "none");
  }
  const names = tableRuns();
  const items = view.group ? grouped(names) : names;
  itemCount = items.length;
  const rows = items.slice(0, limit).map((item) => typeof item === "string"
    ? runRow(item, columns, layout) : groupRow(item, columns.length));
  placeRows(rows);
  for (const name of rowOf.keys()) if (!content.run.has(name)) rowOf.delete(name);
  const isAll = chosenRuns().length === content.run.size;
  const selected = view.selected.size ? `, ${view.selected.size} selected` : "";
  find("#count").textContent = isAll && !isFiltered() ? selected.slice(2)
    : `${chosenRuns().length} of ${content.run.size} runs${selected}`;
  find("#clear").hidden = view.selected.size === 0;
}

// The runs in the order of the table.
function tableRuns() {
  const index = view.sort === null ? -1 : columnOf(view.sort);
  if (index < 0) return chosenRuns();
  return sortedBy(index, view.descending ? -1 : 1, chosenRuns().map((name) => [name, content.run.get(name)]));
}

function renderHeadings(columns) {
  table.tHead.replaceChildren(make("tr", {}, ...columns.map(([column]) => {
    const heading = make("th", { scope: "col" }, make("button", { type: "button", textContent: column.name }));
    heading.dataset.id = column.id;
    return heading;
  })));
}

// Rows that come or go above must not move the ones that the user looks at, nor take the focus.
function placeRows(rows) {
  const body = table.tBodies[0];
  const old = [...body.rows];
  if (rows.length === old.length && rows.every((row, index) => row === old[index])) return;
  const top = scroller.scrollTop;
  const anchor = top > 0 ? old.find((row) => row.offsetTop + row.offsetHeight > top + table.tHead.offsetHeight) : null;
  const before = anchor?.offsetTop;
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  body.replaceChildren(...rows);
  if (focused?.isConnected) focused.focus({ preventScroll: true });
  scroller.scrollTop = anchor?.isConnected ? top + anchor.offsetTop - before : top;
}

function runRow(name, columns, layout) {
  const run = content.run.get(name);
  let known = rowOf.get(name);
  if (known?.run !== run || known.layout !== layout) {
    const row = known?.row ?? make("tr");
    const box = known?.box ?? make("input", { type: "checkbox" });
    box.setAttribute("aria-label", `select ${name}`);
    row.className = run.status;
    row.dataset.run = name;
    const cells = columns.map(([column, index]) => column.id === "run"
      ? make("td", {}, make("label", {}, box, textOf(run, index)))
      : make("td", { textContent: textOf(run, index) }));
    row.replaceChildren(...cells);
    known = { row, box, run, layout };
    rowOf.set(name, known);
  }
  known.box.checked = view.selected.has(name);
  known.row.classList.toggle("selected", known.box.checked);
  return known.row;
}

// --- Groups ---

// Return each group, the one with the best run first, followed by its runs unless it is closed.
function grouped(names) {
  const index = columnOf(view.group);
  if (index < 0) return names;
  const groups = new Map();
  for (const name of names) {
    const value = textOf(content.run.get(name), index);
    if (!groups.has(value)) groups.set(value, []);
    groups.get(value).push(name);
  }
  const items = [...groups].map(([value, runs]) => ({ value, runs, ...scoresOf(runs) }));
  const sign = content.about.lower_is_better ? 1 : -1;
  items.sort((a, b) => Number.isNaN(a.best) - Number.isNaN(b.best) || sign * (a.best - b.best));
  return items.flatMap((group) => [group, ...(view.closed.has(group.value) ? [] : group.runs)]);
}

function scoresOf(runs) {
  const index = columnOf("score");
  const ranked = runs.map((name) => content.run.get(name)).filter((run) => run.ranked);
  const scores = ranked.map((run) => Number(keyOf(run, index)));
  if (!scores.length) return { best: NaN, mean: NaN };
  const best = content.about.lower_is_better ? Math.min(...scores) : Math.max(...scores);
  return { best, mean: scores.reduce((sum, score) => sum + score, 0) / scores.length };
}

function groupRow({ value, runs, best, mean }, width) {
  if (!groupRowOf.has(value)) {
    const button = make("button", { type: "button" });
    button.dataset.group = value;
    const heading = make("th", { scope: "rowgroup" }, button, make("span", { className: "quiet" }));
    groupRowOf.set(value, make("tr", { className: "group" }, heading));
  }
  const row = groupRowOf.get(value);
  const [button, words] = row.cells[0].children;
  const isOpen = !view.closed.has(value);
  row.cells[0].colSpan = width;
  button.textContent = `${isOpen ? "▾" : "▸"} ${content.columns[columnOf(view.group)].name}: ${value || "none"}`;
  button.setAttribute("aria-expanded", String(isOpen));
  const scores = Number.isNaN(best) ? "" : `; best ${plain(best)}, mean ${plain(mean)}`;
  words.textContent = `${runs.length} runs${scores}`;
  return row;
}

const plain = (number) => String(Number(number.toPrecision(5)));

// --- What the user does ---

function toggle(names, isOn = !names.every((name) => view.selected.has(name))) {
  for (const name of names) isOn ? view.selected.add(name) : view.selected.delete(name);
  render();
}

table.addEventListener("click", (event) => {
  const heading = event.target.closest("thead th");
  const group = event.target.closest("[data-group]");
  const row = event.target.closest("[data-run]");
  if (heading) sortBy(heading.dataset.id);
  else if (group) toggleGroup(group.dataset.group);
  else if (row && !event.target.closest("label") && getSelection().isCollapsed) toggle([row.dataset.run]);
});

table.addEventListener("change", (event) => {
  const row = event.target.closest("[data-run]");
  if (row) toggle([row.dataset.run], event.target.checked);
});

function sortBy(id) {
  view.descending = view.sort === id && !view.descending;
  view.sort = id;
  renderTable();
}

function toggleGroup(value) {
  if (!view.closed.delete(value)) view.closed.add(value);
  renderTable();
}

scroller.addEventListener("scroll", () => {
  const isNear = scroller.scrollTop + 2 * scroller.clientHeight > scroller.scrollHeight;
  if (isNear && limit < itemCount) {
    limit += MORE;
    renderTable();
  }
});

const filter = find("#filter");
filter.addEventListener("input", () => setFilter(filter.value));

function setFilter(text) {
  if (filter.value !== text) filter.value = text;
  view.filter = text;
  limit = MORE;
  render();
}

find("#clear").addEventListener("click", () => {
  view.selected.clear();
  render();
  filter.focus();
});

// --- Choice of columns and of the group ---

const groupChoice = find("#group");
groupChoice.addEventListener("change", () => {
  view.group = groupChoice.value;
  view.closed.clear();
  groupRowOf.clear();
  renderTable();
});

const columnChoices = find("#columns .menu");
columnChoices.addEventListener("change", (event) => {
  view.columns.set(event.target.value, event.target.checked);
  renderTable();
});

function renderChoices() {
  const options = content.columns.filter((column) => column.id !== "run")
    .map((column) => make("option", { value: column.id, textContent: column.name }));
  groupChoice.replaceChildren(make("option", { value: "", textContent: "nothing" }), ...options);
  groupChoice.value = view.group;
  const groups = new Map([["", []]]);
  for (const column of content.columns) {
    if (!groups.has(column.group)) groups.set(column.group, []);
    const box = make("input", { type: "checkbox", value: column.id, checked: isShown(column), disabled: column.id === "run" });
    groups.get(column.group).push(make("label", {}, box, column.name));
  }
  columnChoices.replaceChildren(...[...groups].map(([name, labels]) =>
    make("fieldset", {}, make("legend", { textContent: name || "Results and searched settings" }), ...labels)));
}
