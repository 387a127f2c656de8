"use strict";
// Printing: charts laid out for the paper, which the window knows nothing of, and a table that ends.

const MOST_PRINTED = 100;

addEventListener("beforeprint", () => {
  printing = true;
  const rows = [...table.tBodies[0].rows];
  rows.forEach((row, index) => row.classList.toggle("unprinted", index >= MOST_PRINTED));
  const count = chosenRuns().length;
  find("#printed").textContent = count > MOST_PRINTED ? `Printed are ${MOST_PRINTED} of ${count} runs.` : "";
  plots.forEach(draw);
});

addEventListener("afterprint", () => {
  printing = false;
  for (const plot of plots.values()) if (plot.isDrawn) draw(plot);
});
