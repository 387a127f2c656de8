"use strict";
// The dashboard: data as they come, notes, and the next sweep.

const told = read("live");

// --- The stream: what the user set stays as it is ---

const connection = find("#connection");
const stream = new EventSource(`/changes?since=${told.version}`);

stream.addEventListener("open", () => { connection.textContent = "live"; });
stream.addEventListener("error", () => {
  connection.textContent = stream.readyState === EventSource.CLOSED
    ? "the dashboard has ended; start it again and open the address that it prints"
    : "connection lost, trying again";
});
stream.addEventListener("message", ({ data }) => {
  const { parts, removed } = JSON.parse(data);
  take(parts, removed);
  if (parts.words !== undefined) find("#words").innerHTML = parts.words; // escaped by the server
  if (parts.notes !== undefined) showNotes();
  find("#title").textContent = content.about.title;
  find("#summary").textContent = content.about.summary;
  document.title = `${content.about.title}: ${content.about.summary}`;
  connection.textContent = [...content.problem.values()].find(Boolean) ?? "live";
  render();
});

// Send JSON, and return the answer; an error has the server's words.
async function send(path, body) {
  const answer = await fetch(path, { method: "POST", body: JSON.stringify(body),
    headers: { "Content-Type": "application/json" } });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

// --- Notes ---

const notesText = find("#notes-text");
const saveNotes = find("#save-notes");
let savedNotes = content.notes;

function showNotes() {
  const isEdited = notesText.value !== savedNotes;
  if (isEdited && content.notes !== notesText.value) return; // saving will say that they differ
  savedNotes = content.notes;
  notesText.value = savedNotes;
  saveNotes.disabled = true;
}

notesText.value = savedNotes;
find("#notes").hidden = !told.is_sweep;
notesText.addEventListener("input", () => {
  saveNotes.disabled = notesText.value === savedNotes;
  find("#notes-said").textContent = "";
});
saveNotes.addEventListener("click", async () => {
  const text = notesText.value;
  try {
    await send("/notes", { text, before: savedNotes });
    savedNotes = text;
    saveNotes.disabled = notesText.value === savedNotes;
    find("#notes-said").textContent = "saved";
  } catch (error) {
    find("#notes-said").textContent = error.message;
  }
});

// --- A configuration to try next ---

const tryMenu = find("#try");
tryMenu.hidden = told.parameters.length === 0;
find("#try-values").append(...told.parameters.map(({ name, possible }) =>
  make("label", {}, name, make("input", { name, placeholder: possible, title: possible }))));

// It begins with the values of the selected run, else of the best.
tryMenu.addEventListener("toggle", () => {
  const runs = chosenRuns();
  const run = content.run.get(runs.find((name) => view.selected.has(name)) ?? runs[0]);
  for (const field of tryMenu.querySelectorAll("input")) {
    const index = columnOf(`setting/${field.name}`);
    if (run && index >= 0 && field.value === "") field.value = keyOf(run, index);
  }
});

find("#enqueue").addEventListener("click", async () => {
  const fields = [...tryMenu.querySelectorAll("input")].filter((field) => field.value.trim() !== "");
  const values = Object.fromEntries(fields.map((field) => [field.name, field.value.trim()]));
  try {
    find("#steered").textContent = (await send("/enqueue", { values })).said;
    tryMenu.open = false;
  } catch (error) {
    find("#steered").textContent = error.message;
  }
});

// --- The next sweep ---

const nextText = find("#next pre");

find("#make-next").addEventListener("click", async () => {
  find("#steered").textContent = "";
  try {
    nextText.textContent = (await send("/next", {})).text;
    find("#next").hidden = false;
    nextText.focus();
  } catch (error) {
    find("#next").hidden = true;
    find("#steered").textContent = error.message;
  }
});
find("#copy-next").addEventListener("click", async () => {
  await navigator.clipboard.writeText(nextText.textContent);
  find("#steered").textContent = "copied";
});
find("#save-next").addEventListener("click", () => saveFile("next.yaml", nextText.textContent, "text/yaml"));
