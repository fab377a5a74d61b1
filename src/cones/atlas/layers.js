// Inside a layer: who holds which weight, by row, column and head.
const SEVERAL = DATA.concepts.length + 1;
const CELLS = 320; // along the longer side of a picture at most; more are drawn together
const held = { holder: null, key: "" };

at("layer").append(
  h("p", { class: "note" }, "Every point is a weight of a key or value projection: rows are output channels, shared out among the heads, columns are input channels. Margins: neurons by row and by column."),
  h("div", { class: "panel" },
    h("div", { class: "tools" },
      h("button", { type: "button", "aria-label": "previous layer", onclick: () => step(-1) }, "‹"),
      h("select", { id: "pick", "aria-label": "Layer", onchange: (e) => choose("site", Number(e.target.value)) }, DATA.sites.map((site, k) => h("option", { value: k }, `${site.short}  (${site.shape.join(" × ")})`))),
      h("button", { type: "button", "aria-label": "next layer", onclick: () => step(1) }, "›"),
      DATA.concepts.map((_, k) => h("button", { type: "button", class: "chip", "aria-pressed": "true", onclick: (e) => { chosen.shown[k] = !chosen.shown[k]; e.currentTarget.setAttribute("aria-pressed", String(chosen.shown[k])); drawLayer(); } }, swatch(k), NAMES[k])),
      DATA.concepts.length > 1 ? h("span", { class: "note", style: { margin: "0" } }, h("i", { class: "swatch", style: { "--own": "var(--ink)" } }), "several") : null),
    h("div", { class: "around" },
      h("div", {}, h("div", { class: "field" },
        h("div", { class: "labels", id: "heads" }),
        h("div", { class: "wrap" }, h("canvas", { id: "map", onpointermove: hover, onpointerleave: () => { at("readout").textContent = ""; } }), s("svg", { id: "lines", preserveAspectRatio: "none" })),
        s("svg", { id: "byrow", class: "side", preserveAspectRatio: "none" }),
        h("div"), s("svg", { id: "bycolumn", class: "side", preserveAspectRatio: "none" })),
      h("p", { class: "readout", id: "readout" })),
      h("div", { id: "facts" }))));

function step(by) {
  choose("site", (chosen.site + by + DATA.sites.length) % DATA.sites.length);
}

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

// Positions from gaps: 255 says "255 further, no neuron yet"; see atlas/places.py.
function positions(text) {
  const found = [];
  let place = -1;
  for (const gap of bytes(text)) {
    place += gap === 255 ? 255 : gap + 1;
    if (gap !== 255) found.push(place);
  }
  return found;
}

function holders(k) {
  const key = `${k} ${chosen.shown}`;
  if (held.key === key) return held.holder;
  const [rows, columns] = DATA.sites[k].shape;
  const holder = new Uint8Array(rows * columns);
  DATA.places.layers[k].forEach((text, c) => {
    if (text === null || !chosen.shown[c]) return;
    for (const place of positions(text)) holder[place] = holder[place] ? SEVERAL : c + 1;
  });
  Object.assign(held, { key, holder });
  return holder;
}

// How many of a square's weights each concept alone holds, and several: [square][1..n+1].
function squares(k) {
  const [rows, columns] = DATA.sites[k].shape;
  const coarse = DATA.places.kind === "squares" ? DATA.places.layers[k] : null;
  const side = coarse ? coarse.square : Math.ceil(Math.max(rows, columns) / CELLS);
  const [high, wide] = [Math.ceil(rows / side), Math.ceil(columns / side)];
  const counts = new Float32Array(high * wide * (SEVERAL + 1));
  if (coarse) {
    coarse.shares.forEach((text, c) => {
      if (c < DATA.concepts.length && !chosen.shown[c]) return;
      bytes(text).forEach((share, square) => { counts[square * (SEVERAL + 1) + c + 1] = (share / 255) * coarse.full * side * side; });
    });
  } else {
    holders(k).forEach((who, place) => {
      if (!who) return;
      const square = Math.floor(Math.floor(place / columns) / side) * wide + Math.floor((place % columns) / side);
      counts[square * (SEVERAL + 1) + who] += 1;
    });
  }
  return { counts, high, wide, side };
}

function colour(name) {
  const probe = h("i", { style: { color: name } });
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}

function paint(k) {
  const { counts, high, wide, side } = squares(k);
  const canvas = at("map");
  const zoom = Math.max(1, Math.round(640 / Math.max(wide, high)));
  Object.assign(canvas, { width: wide * zoom, height: high * zoom });
  canvas.style.aspectRatio = `${wide} / ${high}`;
  const inks = [null, ...COLOURS.map(colour), colour("var(--ink)")];
  const brush = canvas.getContext("2d");
  const full = side === 1 ? 1 : largest(counts) || 1;
  for (let square = 0; square < high * wide; square += 1) {
    const here = counts.subarray(square * (SEVERAL + 1), (square + 1) * (SEVERAL + 1));
    const total = here.reduce((a, b) => a + b, 0);
    if (!total) continue;
    const mixed = [0, 1, 2].map((band) => here.reduce((sum, n, who) => sum + (n ? n * inks[who][band] : 0), 0) / total);
    brush.fillStyle = `rgba(${mixed.map(Math.round).join(",")},${side === 1 ? 1 : Math.min(0.15 + (0.85 * total) / full, 1)})`;
    brush.fillRect((square % wide) * zoom, Math.floor(square / wide) * zoom, zoom, zoom);
  }
}

function hover(event) {
  const site = DATA.sites[chosen.site];
  const [rows, columns] = site.shape;
  const box = at("map").getBoundingClientRect();
  const row = Math.min(Math.floor(((event.clientY - box.top) / box.height) * rows), rows - 1);
  const column = Math.min(Math.floor(((event.clientX - box.left) / box.width) * columns), columns - 1);
  const head = site.heads ? `, head ${Math.floor((row * site.heads) / rows) + 1}` : "";
  let who = "";
  if (DATA.places.kind === "gaps") {
    const holder = holders(chosen.site)[row * columns + column];
    who = holder === SEVERAL ? ": several concepts" : holder ? `: ${NAMES[holder - 1]}` : ": nobody";
  }
  at("readout").textContent = `row ${row + 1} of ${rows}${head}, column ${column + 1} of ${columns}${who}`;
}

function margin(id, kind, upright) {
  const chart = at(id);
  const all = DATA[kind].map((sites) => sites[chosen.site]);
  const top = largest(all.flatMap((bars, c) => (bars && chosen.shown[c] ? bars : []))) || 1;
  chart.setAttribute("viewBox", "0 0 100 100");
  chart.setAttribute("data-tip", `Neurons by ${upright ? "row" : "column"}, up to ${few(top)}`);
  chart.replaceChildren(...all.flatMap((bars, c) => {
    if (!bars || !chosen.shown[c]) return [];
    const step = 100 / bars.length;
    const points = ["0,0", ...bars.flatMap((n, b) => [[b * step, n], [(b + 1) * step, n]].map(([at, v]) => (upright ? `${(96 * v) / top},${at}` : `${at},${(96 * v) / top}`))), upright ? "0,100" : "100,0"];
    return [s("polygon", { points: points.join(" "), style: { fill: COLOURS[c] }, "fill-opacity": 0.18, stroke: COLOURS[c], "stroke-width": 1, "vector-effect": "non-scaling-stroke" })];
  }));
}

function headFacts(k) {
  const site = DATA.sites[k];
  const facts = DATA.concepts.map((_, c) => h("tr", {}, h("td", {}, swatch(c), NAMES[c]), h("td", {}, whole(DATA.counts[c][k] ?? NaN)), h("td", {}, percent(density(c, k) ?? NaN))));
  const parts = [h("h4", { style: { "margin-top": "0" } }, site.name), h("table", {}, h("tbody", {}, facts))];
  if (!site.heads) return [...parts, h("p", { class: "note", style: { "margin-top": "14px" } }, "The number of heads of this model is not known; make the page with --heads.")];
  const size = (site.shape[0] * site.shape[1]) / site.heads;
  const top = largest(DATA.heads.flatMap((sites) => (sites[k] || []).map((n) => n / size))) || 1;
  const bars = Array.from({ length: site.heads }, (_, head) => DATA.heads.map((sites, c) => {
    if (!sites[k] || !chosen.shown[c]) return null;
    const share = sites[k][head] / size;
    return [h("span", { class: "label" }, c === chosen.shown.indexOf(true) ? `head ${head + 1}` : ""),
      h("span", { style: { background: COLOURS[c], width: `${(100 * share) / top}%`, height: "10px", "border-radius": "3px", "min-width": "1px" }, "data-tip": `${NAMES[c]}, head ${head + 1}\n${whole(sites[k][head])} neurons, ${percent(share)}` }),
      h("span", {}, percent(share))];
  }));
  return [...parts, h("h4", {}, `Density by head (${site.heads} heads of ${site.shape[0] / site.heads} rows)`),
    h("div", { class: "heat", style: { "grid-template-columns": "auto minmax(0, 1fr) auto", "align-items": "center", gap: "3px 8px" } }, bars.flat(2))];
}

function drawLayer() {
  const k = chosen.site;
  const site = DATA.sites[k];
  const flat = site.shape.length === 2 && DATA.places.layers[k];
  at("pick").value = String(k);
  document.querySelector(".field").hidden = !flat;
  at("facts").replaceChildren(...headFacts(k));
  if (!flat) return;
  paint(k);
  margin("byrow", "rows", true);
  margin("bycolumn", "columns", false);
  const edges = site.heads ? Array.from({ length: site.heads - 1 }, (_, n) => (100 * (n + 1)) / site.heads) : [];
  at("lines").setAttribute("viewBox", "0 0 100 100");
  at("lines").replaceChildren(...edges.map((y) => s("line", { x1: 0, x2: 100, y1: y, y2: y, stroke: "var(--soft)", "stroke-width": 1, "stroke-dasharray": "3 3", "vector-effect": "non-scaling-stroke" })));
  at("heads").replaceChildren(...Array.from({ length: site.heads || 0 }, (_, n) => h("span", { style: { top: `${(100 * (n + 0.5)) / site.heads}%` } }, `head ${n + 1}`)));
}

redraw.site.push(drawLayer);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => choose("site", chosen.site));
choose("pair", 0);
choose("site", DATA.sites.findIndex((site) => site.attention === "cross" && site.role === "V") > -1 ? DATA.sites.findIndex((site) => site.attention === "cross" && site.role === "V") : 0);
