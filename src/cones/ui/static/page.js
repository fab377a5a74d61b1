// The page of `cones ui`. Markup comes from our own templates, which escape what files say;
// everything else is only ever set as text. Stop is the end of the request: the server notices.
"use strict";

const $ = (query, from = document) => from.querySelector(query);
const TITLES = { untouched: "untouched", shut: "with the concepts" };
let drawing = null;
let kept = {}; // the untouched row, drawn again only if more than a slider has changed

function fail(text) {
  $("#error").textContent = text;
  $("#error").hidden = !text;
}

async function ask(path, options) {
  const reply = await fetch(path, options).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("found no answer; expected cones to run in the terminal; start it again");
  });
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => ({}));
  throw new Error(said.error || `${reply.status} ${reply.statusText}`);
}

const choices = () => [...document.querySelectorAll(".card")].filter((card) => $(".on", card).checked).map((card) => ({
  number: Number(card.dataset.number),
  strength: $(".strength", card).valueAsNumber / 100,
  density: Number($(".density", card).value),
  ...($(".identifier", card).disabled ? {} : { identifier: $(".identifier", card).value }),
}));

function order() {
  const given = { prompt: $("#order").prompt.value, choices: choices() };
  for (const name of ["seed", "count", "num_inference_steps", "guidance_scale"]) {
    const value = $("#order")[name].valueAsNumber;
    if (!Number.isNaN(value)) given[name] = value;
  }
  return given;
}

// One JSON object a line, while the server draws.
async function* lines(body) {
  let rest = "";
  const decoder = new TextDecoder();
  for (let reader = body.getReader(), part; !(part = await reader.read()).done;) {
    const found = (rest + decoder.decode(part.value, { stream: true })).split("\n");
    rest = found.pop();
    yield* found.map((line) => JSON.parse(line));
  }
}

async function draw() {
  const asked = order();
  const silent = asked.choices.map((choice) => choice.identifier).filter((word) => word && !asked.prompt.includes(word));
  const plain = JSON.stringify({ ...asked, choices: asked.choices.map(({ number, identifier }) => [number, identifier]) });
  const rows = kept.plain === plain ? { untouched: kept.pictures } : {};
  asked.untouched = !rows.untouched;
  drawing = new AbortController();
  busy(true);
  try {
    const reply = await ask("draw", { method: "POST", body: JSON.stringify(asked), signal: drawing.signal });
    for await (const line of lines(reply.body)) {
      if (line.error) throw new Error(line.error);
      if (line.row) show(asked, Object.assign(rows, { [line.row]: line.pictures }));
      if (line.row === "untouched") kept = { plain, pictures: line.pictures };
      if (line.total) Object.assign($("#progress"), { max: line.total, value: line.done });
      $("#message").textContent = line.ahead ? `waiting for ${line.ahead} other drawing(s)` : "";
    }
    if (silent.length) $("#message").textContent = `The prompt does not say ${silent.join(", ")}.`;
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    $("#message").textContent = "stopped";
  } finally {
    busy(false);
  }
}

function busy(on) {
  $("#draw").disabled = on;
  $("#stop").hidden = $("#progress").hidden = !on;
  $("#progress").removeAttribute("value");
  if (on) $("#message").textContent = "";
}

// The pictures of one seed stand side by side.
function show(asked, rows) {
  $("#pictures").replaceChildren(...Array.from({ length: asked.count }, (_, k) => {
    const pair = document.createElement("div");
    pair.className = "pair";
    pair.append(...Object.entries(rows).map(([row, pictures]) => picture(pictures[k], TITLES[row], asked.seed + k)));
    return pair;
  }));
}

function picture(address, title, seed) {
  const link = document.createElement("a");
  Object.assign(link, { href: address, download: `${title}-${seed}.png`.replaceAll(" ", "-") });
  const image = document.createElement("img");
  Object.assign(image, { src: address, alt: `seed ${seed}, ${title}` });
  link.append(image, `seed ${seed}, ${title}`);
  return link;
}

async function add(files) {
  for (const file of files) {
    const reply = await ask(`concepts?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
    $("#concepts").insertAdjacentHTML("beforeend", await reply.text());
  }
}

const guarded = (work) => async (event) => {
  fail("");
  try {
    await work(event);
  } catch (error) {
    fail(error.message);
  }
};

$("#order").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(draw)();
});
$("#stop").addEventListener("click", () => drawing.abort());
$("#files").addEventListener("change", guarded(async (event) => {
  const files = [...event.target.files];
  event.target.value = "";
  await add(files);
}));
$("#concepts").addEventListener("input", (event) => {
  const card = event.target.closest(".card");
  $("output", card).textContent = `${$(".strength", card).value} %`;
  card.classList.toggle("off", !$(".on", card).checked);
});
$("#concepts").addEventListener("click", guarded(async (event) => {
  if (!event.target.matches(".remove")) return;
  const card = event.target.closest(".card");
  await ask(`concepts/${card.dataset.number}`, { method: "DELETE" });
  card.remove();
}));
