"use strict";
// What the models wrote: the last text of each of the best runs in the table.

const MOST_WRITERS = 6;
const samples = find("#samples");

const sampleText = ({ prompt, text }) => make("pre", {}, make("span", { className: "prompt", textContent: prompt }), text);

function renderSamples() {
  const index = columnOf("score");
  const runs = chosenRuns().filter((name) => content.sample.has(name));
  const first = [...runs.filter((name) => view.selected.has(name)), ...runs.filter((name) => !view.selected.has(name))];
  samples.hidden = runs.length === 0;
  samples.querySelector("h2").textContent = "What the models wrote";
  samples.querySelector(".samples").replaceChildren(...first.slice(0, MOST_WRITERS).map((name) => {
    const sample = content.sample.get(name);
    const about = make("span", { className: "quiet", textContent: `${textOf(content.run.get(name), index)}, step ${sample.step}` });
    return make("figure", {}, make("figcaption", {}, `${name} `, about), sampleText(sample));
  }));
}
