"use strict";
// The filter: words such as `diverged`, `num_layers=4`, `optimizer=adam|sgd`, `"a text"`, `loss<1.9`.

const WORD = /(?:"[^"]*"|[^\s,"]|,(?=\d)|"(?=[^"]*$))+/g;
const TEST = /^("[^"]*"|[^<>="]+)(<=|>=|<|>|=)(.+)$/;

// Return a function that tells whether a run, as [name, run], has all words.
function passesFilter(text) {
  const spaced = text.toLowerCase().replace(/\s*(<=|>=|<|>|=)\s*/g, "$1");
  const tests = (spaced.match(WORD) ?? []).map(toTest);
  return ([, run]) => tests.every((test) => test(run));
}

function toTest(word) {
  const match = TEST.exec(word);
  const index = match ? columnNamed(unquoted(match[1])) : -1;
  if (index < 0) return (run) => searched(run).includes(unquoted(word));
  const wanted = (match[3].match(/"[^"]*"|[^|"]+/g) ?? []).map(unquoted);
  if (match[2] === "=") return (run) => wanted.some((value) => isEqual(run, index, value));
  const holds = { "<": (d) => d < 0, ">": (d) => d > 0, "<=": (d) => d <= 0, ">=": (d) => d >= 0 }[match[2]];
  return (run) => {
    const key = keyOf(run, index);
    return key !== "" && holds(compareKeys(key, wanted[0] ?? ""));
  };
}

function isEqual(run, index, value) {
  const key = keyOf(run, index);
  const isNumber = key !== "" && compareKeys(key, value) === 0;
  return isNumber || key.toLowerCase() === value || textOf(run, index).toLowerCase() === value;
}

const unquoted = (text) => text.replaceAll('"', "");
const quoted = (text) => /[\s,|<>="]/.test(text) ? `"${unquoted(text)}"` : text;
const wordFor = (column) => quoted(column.name.toLowerCase().replaceAll(" ", "_"));

function columnNamed(name) {
  return content.columns.findIndex((column) =>
    column.name.toLowerCase().replaceAll(" ", "_") === name.replaceAll(" ", "_"));
}

// All of a run's cells as one text, made once.
function searched(run) {
  run.searched ??= content.columns.map((column, index) => `${column.name}=${textOf(run, index)}`)
    .join(" ").toLowerCase();
  return run.searched;
}

// --- Words that other parts of the page write into the filter ---

const wordsOf = (text) => text.match(WORD) ?? [];

function isAbout(word, column) {
  const match = TEST.exec(word.toLowerCase());
  return match !== null && columnNamed(unquoted(match[1])) === content.columns.indexOf(column);
}

// Replace what the filter says about a column by `words`.
function filterColumn(column, words) {
  setFilter([...wordsOf(view.filter).filter((word) => !isAbout(word, column)), ...words].join(" "));
}
