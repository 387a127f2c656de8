"use strict";
// The page as a whole: drawn at first, and again when its content or the view of it changes.

let isWaiting = false; // for the charts
let choicesOf = null; // the columns for which the choices were made

function render() {
  chosen = null;
  if (choicesOf !== content.columns) renderChoices();
  choicesOf = content.columns;
  renderAcross();
  renderTable();
  renderPair();
  renderSamples();
  placePlots();
  if (!isWaiting) requestAnimationFrame(() => setTimeout(renderLate)); // first the table is painted
  isWaiting = true;
}

function renderLate() {
  isWaiting = false;
  renderPlots();
}

function renderNotes() {
  const notes = find("#notes-text");
  if (notes.tagName === "TEXTAREA") return; // a dashboard's, which live.js fills
  notes.textContent = content.notes;
  find("#notes").hidden = content.notes === "";
}

// A menu goes when the user is done with it.
for (const menu of document.querySelectorAll(".controls details")) {
  addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.firstElementChild.focus();
  });
}

take(read("content"));
renderNotes();
render();
addEventListener("DOMContentLoaded", renderPlots);
