"use strict";
// Figures, small makers of elements, and what is chosen. Text from files is only ever set as text.
const DATA = JSON.parse(document.getElementById("figures").textContent);
const SVG = document.getElementById("mark").namespaceURI;
const COLOURS = DATA.concepts.map((_, k) => `var(--c${k % 8})`);
const NAMES = DATA.concepts.map((c) => c.words.map((w) => w.join(" ")).join(" + "));
const chosen = { pair: 0, site: 0, shown: DATA.concepts.map(() => true), sort: null, down: false };
const redraw = { pair: [], site: [] };

function made(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
    else element.setAttribute(name, value);
  }
  const given = children.flat(Infinity).filter((c) => c !== null && c !== undefined);
  element.append(...given.map((c) => (c instanceof Node ? c : String(c))));
  return element;
}
const h = (tag, attributes, ...children) => made(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => made(document.createElementNS(SVG, tag), attributes, children);
const at = (id) => document.getElementById(id);
const whole = (x) => (Number.isFinite(x) ? Math.round(x).toLocaleString("en-US") : "–");
const percent = (x, digits = 2) => (Number.isFinite(x) ? `${(100 * x).toFixed(digits)} %` : "–");
const few = (x) => (Number.isFinite(x) ? (Math.abs(x) < 9.95 ? x.toFixed(1) : whole(x)) : "–");
const signed = (x, digits) => (Number.isFinite(x) ? (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits) : "–");
const blend = (colour, share, from = "var(--calm)") =>
  `color-mix(in oklab, ${colour} ${Math.round(100 * Math.min(Math.max(share, 0), 1))}%, ${from})`;
const largest = (values) => values.reduce((a, b) => (Number.isFinite(b) && b > a ? b : a), 0);

function choose(what, value) {
  chosen[what] = value;
  for (const draw of redraw[what]) draw();
}

function density(concept, site) {
  const count = DATA.counts[concept][site];
  const size = DATA.sites[site].shape.reduce((a, b) => a * b, 1);
  return count === null || !size ? null : count / size;
}

// Whatever carries data-tip explains itself under the pointer.
document.addEventListener("pointermove", (event) => {
  const told = event.target.closest ? event.target.closest("[data-tip]") : null;
  tell(told && told.getAttribute("data-tip"), event);
});
function tell(text, event) {
  const tip = at("tip");
  tip.classList.toggle("on", Boolean(text));
  if (!text) return;
  tip.textContent = text;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const top = event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 8 : event.clientY + 18;
  tip.style.left = `${left}px`;
  tip.style.top = `${top}px`;
}

const bases = [...new Set(DATA.concepts.map((c) => c.base))].join(", ");
const weights = DATA.sites.reduce((sum, site) => sum + site.shape.reduce((a, b) => a * b, 1), 0);
at("summary").textContent =
  `${NAMES.join(" · ")} — where their neurons lie among ${whole(weights)} key and value weights ` +
  `in ${DATA.sites.length} layers of ${bases}`;
document.title = `${NAMES.join(", ")} · concept atlas`;
