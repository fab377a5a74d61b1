// The page of `cones ui`. Text from files and answers is only ever set as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const percent = (share, digits) => `${(100 * share).toFixed(digits)} %`;
let drawn = null; // the last answer to an order
let pressed = null; // the word whose attention stays on

function fail(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

// Every answer is read to its end: one left unread would keep its connection.
async function ask(path, options = {}, kind = "json") {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("found no answer from cones; expected it running in the terminal; start it again");
  }
  if (!reply.ok) {
    const said = await reply.json().catch(() => ({}));
    throw new Error(said.error || `${reply.status} ${reply.statusText}`);
  }
  return reply[kind]();
}

const post = (path, body, kind) => ask(path, { method: "POST", body: JSON.stringify(body) }, kind);

async function guarded(work) {
  fail("");
  try {
    await work();
  } catch (error) {
    fail(error.message);
  }
}

// --- concepts -------------------------------------------------------------------------------

const cards = () => [...document.querySelectorAll(".card")];

function wordsOf(concept, identifier) {
  return concept.members.map((m, i) => `${i ? m.identifier : identifier} ${m.noun}`).join(", ");
}

function addCard(concept) {
  const card = $("card").content.firstElementChild.cloneNode(true);
  const part = (name) => card.querySelector(`.${name}`);
  card.concept = concept;
  part("file").textContent = `${concept.file} · found on ${concept.base}`
    + (concept.verdict === "fine-tune" ? " (a relative of this model)" : "");
  part("identifier").value = concept.members[0].identifier;
  part("word").hidden = concept.members.length > 1;
  part("level").max = concept.levels.length - 1;
  part("level").value = concept.level;
  part("levels").querySelector("input").disabled = concept.levels.length < 2;
  part("harm").hidden = !concept.harms;
  const show = () => {
    const level = Number(part("level").value);
    part("said").textContent = wordsOf(concept, part("identifier").value.trim());
    part("strength").nextElementSibling.textContent = percent(part("strength").value / 100, 0);
    part("level").nextElementSibling.textContent = percent(concept.levels[level], 2);
    const measured = concept.certificate[level];
    part("certificate").textContent =
      `${concept.neurons[level].toLocaleString("en")} neurons`
      + (measured ? `. Held-out loss on the subject: ${measured}` : ". No certificate");
    card.classList.toggle("off", !part("on").checked);
  };
  card.addEventListener("input", show);
  part("use").addEventListener("click", () => insert(`${choice(card).identifier} ${concept.members[0].noun}`));
  part("remove").addEventListener("click", () => guarded(async () => {
    await ask(`concepts/${concept.number}`, { method: "DELETE" });
    card.remove();
    $("none").hidden = cards().length > 0;
  }));
  show();
  $("concepts").append(card);
  $("none").hidden = true;
}

function choice(card) {
  const value = (name) => card.querySelector(`.${name}`).value;
  return {
    number: card.concept.number,
    strength: Number(value("strength")) / 100,
    level: Number(value("level")),
    identifier: value("identifier").trim(),
  };
}

const isOn = (card) => card.querySelector(".on").checked;
const choices = () => cards().filter(isOn).map(choice);

function insert(text) {
  const prompt = $("prompt");
  const [from, to] = [prompt.selectionStart, prompt.selectionEnd];
  const gap = from && !/\s$/.test(prompt.value.slice(0, from)) ? " " : "";
  prompt.setRangeText(gap + text, from, to, "end");
  prompt.focus();
}

async function upload(files) {
  for (const file of files) {
    addCard(await ask(`concepts?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file }));
  }
}

async function download() {
  const data = await post("mixture", { choices: choices() }, "blob");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(data);
  const words = cards().filter(isOn).map((card) => card.concept.members[0].noun);
  link.download = `${words.join("-").replace(/[^\w-]+/g, "_")}.cones.safetensors`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// --- drawing --------------------------------------------------------------------------------

function busy(on) {
  $("draw").disabled = $("file").disabled = on;
  $("stop").hidden = $("progress").hidden = !on;
  if (on) $("progress").removeAttribute("value"); // moves until the first step is done
}

async function follow() {
  const { done, count } = await ask("progress").catch(() => ({}));
  if (done && !$("progress").hidden) $("progress").value = done / count;
}

async function draw() {
  const order = {
    prompt: $("prompt").value,
    choices: choices(),
    attention: $("attention").checked,
    ...Object.fromEntries(["seed", "steps", "guidance", "count"].map((id) => [id, $(id).valueAsNumber])),
  };
  const label = cards().filter(isOn).map((card) => {
    const { strength, level, identifier } = choice(card);
    const parts = [wordsOf(card.concept, identifier), percent(card.concept.levels[level], 2)];
    return parts.concat(strength < 1 ? [`strength ${percent(strength, 0)}`] : []).join(", ");
  }).join(" + ");
  busy(true);
  const timer = setInterval(follow, 250);
  try {
    drawn = await post("draw", order);
  } finally {
    clearInterval(timer);
    busy(false);
  }
  Object.assign(drawn, { label, seed: order.seed, attention: order.attention });
  showPictures();
}

function showPictures() {
  $("notes").replaceChildren(...drawn.notes.map((note) => {
    const line = document.createElement("li");
    line.textContent = note;
    return line;
  }));
  const rows = [["Untouched model", drawn.untouched]];
  if (drawn.shut) rows.push([`Shut: ${drawn.label}`, drawn.shut]);
  $("pictures").replaceChildren(...rows.flatMap(([title, row], i) => {
    const heading = document.createElement("h2");
    heading.textContent = title;
    const line = document.createElement("div");
    line.className = `row ${i ? "shut" : "untouched"}`;
    for (let k = 0; k < drawn.count; k += 1) line.append(picture(row, k, title));
    return [heading, line];
  }));
  if (!drawn.words.includes(pressed)) pressed = null;
  $("words").hidden = !drawn.attention;
  $("words").replaceChildren($("words").firstElementChild, ...drawn.words.map(wordButton));
  light(pressed);
}

function picture(row, number, title) {
  const link = document.createElement("a");
  link.href = `picture/${row}/${number}`;
  link.target = "_blank";
  const image = document.createElement("img");
  image.alt = `${title}, seed ${drawn.seed + number}`;
  image.dataset.plain = link.href;
  image.src = link.href;
  link.append(image, `seed ${drawn.seed + number}`);
  return link;
}

function wordButton(word) {
  const button = document.createElement("button");
  button.textContent = word;
  button.setAttribute("aria-pressed", word === pressed);
  button.addEventListener("click", () => guarded(async () => {
    pressed = pressed === word ? null : word;
    for (const other of $("words").querySelectorAll("button")) {
      other.setAttribute("aria-pressed", other.textContent === pressed);
    }
    if (pressed) await ask(`picture/${drawn.untouched}/0?word=${encodeURIComponent(pressed)}`, {}, "blob");
    light(pressed);
  }));
  button.addEventListener("mouseenter", () => light(word));
  button.addEventListener("mouseleave", () => light(pressed));
  return button;
}

function light(word) {
  for (const image of document.querySelectorAll("#pictures img")) {
    image.src = word ? `${image.dataset.plain}?word=${encodeURIComponent(word)}` : image.dataset.plain;
  }
}

// --- start ----------------------------------------------------------------------------------

$("draw").addEventListener("click", () => guarded(draw));
$("stop").addEventListener("click", () => guarded(() => post("stop", {})));
$("mixture").addEventListener("click", () => guarded(download));
$("file").addEventListener("change", () => guarded(async () => {
  const files = [...$("file").files];
  $("file").value = "";
  await upload(files);
}));
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("draw").disabled) guarded(draw);
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const files = [...event.dataTransfer.files];
  if (!$("file").disabled && files.length) guarded(() => upload(files));
});
guarded(async () => {
  const state = await ask("state");
  $("model").textContent = state.model;
  state.concepts.forEach(addCard);
  const said = state.concepts.map((concept) => wordsOf(concept, concept.members[0].identifier));
  $("prompt").value ||= `a ${said[0] ?? "cat"} in the snow`;
});
