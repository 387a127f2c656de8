"use strict";
// Selected runs side by side: what differs, what they scored, and what they wrote.

const MOST_BESIDE = 4;
const pair = find("#pair");

function renderPair() {
  const names = chosenRuns().filter((name) => view.selected.has(name)).slice(0, MOST_BESIDE);
  pair.hidden = names.length < 2;
  if (pair.hidden) return;
  const runs = names.map((name) => content.run.get(name));
  const cells = (texts) => texts.map((text) => make("td", { textContent: text }));
  const rows = content.columns.map((column, index) => {
    if (column.id === "run") return null;
    const texts = runs.map((run) => textOf(run, index));
    const differs = texts.some((text) => text !== texts[0]);
    return make("tr", { className: differs ? "differs" : "" },
      make("th", { scope: "row", textContent: column.name }), ...cells(texts));
  }).filter(Boolean);
  const written = names.map((name) => content.sample.get(name));
  if (written.some(Boolean)) {
    const texts = written.map((sample) => make("td", {}, sample ? sampleText(sample) : ""));
    rows.push(make("tr", {}, make("th", { scope: "row", textContent: "it wrote" }), ...texts));
  }
  const head = make("tr", {}, make("td"), ...names.map((name) => make("th", { scope: "col", textContent: name })));
  pair.querySelector("table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}
