"use strict";
// The table as a file: the rows and columns that are shown, in their order, with all digits.

function csvText() {
  const columns = shownColumns();
  const rows = tableRuns().map((name) => columns.map(([, index]) => keyOf(content.run.get(name), index)));
  return [columns.map(([column]) => column.name), ...rows].map((row) => row.map(field).join(",") + "\r\n").join("");
}

// Quoted as RFC 4180 has it. A spreadsheet must not take a run's text for a formula.
function field(text) {
  const isNumber = text !== "" && !Number.isNaN(Number(text));
  const safe = !isNumber && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function saveFile(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

find("#save-csv").addEventListener("click", () =>
  saveFile(`${content.about.title.replace(/[^\w.-]+/g, "-")}.csv`, csvText(), "text/csv;charset=utf-8"));
