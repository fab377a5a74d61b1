// What concepts share: a matrix of pairs, one pair layer by layer, and a table of all layers.
const pairOf = (i, j) => DATA.pairs.findIndex((p) => p.concepts[0] === Math.min(i, j) && p.concepts[1] === Math.max(i, j));
const swatch = (k) => h("i", { class: "swatch", style: { "--own": COLOURS[k] } });

if (DATA.pairs.length) {
  at("pairs").hidden = false;
  const panel = h("div", { class: "panel", id: "pair" });
  at("pairs").append(
    h("p", { class: "note" }, "Expected is what random masks with as many neurons in every layer would share (hypergeometric, layer by layer); z counts standard deviations from that. Choose a pair."),
    h("div", { class: "two" }, h("div", { class: "panel" }, h("div", { class: "scroll" }, matrix()), ...several()), panel));
  redraw.pair.push(() => drawPair(panel));
}

function matrix() {
  const strongest = largest(DATA.pairs.map((p) => Math.abs(Math.log(ratio(p) || 1)))) || 1;
  const tint = (p) => {
    const log = Math.log(ratio(p) || 1);
    return blend(log > 0 ? "var(--heat)" : "var(--cold)", (0.55 * Math.abs(log)) / strongest);
  };
  const cell = (i, j) => {
    if (i === j) return h("td", {}, h("div", { class: "self" }, h("b", {}, whole(DATA.concepts[i].neurons)), h("small", {}, "neurons")));
    const number = pairOf(i, j);
    const pair = DATA.pairs[number];
    const f = pair.all;
    const inside = i < j
      ? [h("b", {}, whole(f.shared)), h("small", {}, `shared; by chance ${few(f.expected)}\u00a0±\u00a0${few(f.deviation)}`)]
      : [h("b", {}, percent(f.jaccard)), h("small", {}, `of the union; z\u00a0${f.z === null ? "–" : signed(f.z, 1)}`)];
    return h("td", {}, h("button", { type: "button", "data-pair": number, "aria-pressed": "false", style: { background: tint(pair) }, onclick: () => choose("pair", number), "data-tip": `${NAMES[i]} and ${NAMES[j]}\n${whole(f.shared)} shared, ${few(f.expected)} ± ${few(f.deviation)} expected (× ${(ratio(pair) || 0).toFixed(2)})\nJaccard ${percent(f.jaccard)}, z ${f.z === null ? "–" : signed(f.z, 1)}` }, inside));
  };
  const all = DATA.concepts.map((_, k) => k);
  return h("table", { class: "matrix", style: { "min-width": `${90 + 118 * all.length}px` } },
    h("thead", {}, h("tr", {}, h("th", { style: { width: "90px" } }), all.map((k) => h("th", { scope: "col" }, swatch(k), NAMES[k])))),
    h("tbody", {}, all.map((i) => h("tr", {}, h("th", { scope: "row" }, swatch(i), NAMES[i]), all.map((j) => cell(i, j))))));
}

function ratio(pair) {
  return pair.all.expected > 0 ? pair.all.shared / pair.all.expected : NaN;
}

function several() {
  const rows = DATA.several.filter((row) => row.concepts > 0);
  if (rows.length < 3) return [];
  return [h("h4", {}, "Neurons held by exactly so many concepts"),
    h("table", {}, h("tbody", {}, rows.map((row) => h("tr", {},
      h("td", {}, `${row.concepts} of ${rows.length}`), h("td", {}, h("b", {}, whole(row.weights))), h("td", { class: "note" }, `${few(row.expected)} expected`)))))];
}

function drawPair(panel) {
  const { concepts: [i, j], all, sites } = DATA.pairs[chosen.pair];
  for (const button of at("pairs").querySelectorAll("button[data-pair]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.pair) === chosen.pair));
  }
  const rows = sites.map((f, site) => ({ f, site })).filter((row) => row.f);
  panel.replaceChildren(
    h("h3", {}, swatch(i), NAMES[i], " ∩ ", swatch(j), NAMES[j]),
    h("p", { class: "lead" }, "They share ", h("b", {}, whole(all.shared)), ` neurons, ${percent(all.jaccard)} of the ${whole(all.union)} that either holds. Chance: ${few(all.expected)}\u00a0±\u00a0${few(all.deviation)}`,
      all.z === null ? "." : h("span", {}, ", ", h("b", {}, `z = ${signed(all.z, 1)}`), ".")),
    h("h4", {}, "Layer by layer: shared (bar), expected (line) with two standard deviations (band); click one to look inside"),
    h("div", { class: "bars" }, siteBars(rows)));
}

function siteBars(rows) {
  const [left, width, step] = [118, 300, 17];
  const top = largest(rows.map(({ f }) => Math.max(f.shared, f.expected + 2 * f.deviation))) || 1;
  const x = (v) => left + (width * Math.max(v, 0)) / top;
  return s("svg", { viewBox: `0 0 520 ${rows.length * step + 4}` }, rows.map(({ f, site }, row) => {
    const y = row * step;
    const name = DATA.sites[site].short;
    return s("g", { onclick: () => { choose("site", site); at("layer").scrollIntoView({ behavior: "smooth" }); }, "data-tip": `${DATA.sites[site].name}\n${whole(f.shared)} shared, ${few(f.expected)} ± ${few(f.deviation)} expected\nz ${f.z === null ? "–" : signed(f.z, 1)}, Jaccard ${percent(f.jaccard)}` },
      s("rect", { class: "back", x: 0, y, width: 520, height: step, fill: "transparent" }),
      s("text", { x: left - 8, y: y + 12, "text-anchor": "end" }, name),
      s("rect", { x: x(f.expected - 2 * f.deviation), width: Math.max(x(f.expected + 2 * f.deviation) - x(f.expected - 2 * f.deviation), 0.5), y: y + 2, height: 13, fill: "var(--soft)", opacity: 0.28 }),
      s("rect", { x: left, width: x(f.shared) - left, y: y + 5, height: 7, rx: 1.5, fill: f.z !== null && f.z > 2 ? "var(--heat)" : f.z !== null && f.z < -2 ? "var(--cold)" : "var(--soft)" }),
      s("line", { x1: x(f.expected), x2: x(f.expected), y1: y + 2, y2: y + 15, stroke: "var(--ink)", "stroke-width": 1.4 }),
      s("text", { x: left + width + 44, y: y + 12, "text-anchor": "end" }, whole(f.shared)),
      s("text", { x: 516, y: y + 12, "text-anchor": "end" }, f.z === null ? "" : `z ${signed(f.z, 1)}`));
  }));
}

// The table of all layers: a click on a head sorts, a click on a row looks inside.
const COLUMNS = [
  ["layer", (k) => k, (k) => DATA.sites[k].short],
  ["attention", (k) => DATA.sites[k].attention, (k) => DATA.sites[k].attention],
  ["role", (k) => DATA.sites[k].role, (k) => DATA.sites[k].role],
  ["shape", (k) => DATA.sites[k].shape.reduce((a, b) => a * b, 1), (k) => DATA.sites[k].shape.join(" × ")],
  ...DATA.concepts.map((_, c) => [NAMES[c], (k) => density(c, k), (k) => meter(c, density(c, k)), c]),
  ...(DATA.pairs.length ? [
    ["shared", (k) => site(k, "shared"), (k) => whole(site(k, "shared"))],
    ["expected", (k) => site(k, "expected"), (k) => few(site(k, "expected"))],
    ["Jaccard", (k) => site(k, "jaccard"), (k) => percent(site(k, "jaccard"))],
    ["z", (k) => site(k, "z"), (k) => signed(site(k, "z") ?? NaN, 1)]] : []),
];
const fullest = largest(DATA.concepts.flatMap((_, c) => DATA.sites.map((_, k) => density(c, k))));

function site(k, figure) {
  const row = DATA.pairs[chosen.pair].sites[k];
  return row ? row[figure] : null;
}

function meter(c, share) {
  if (share === null) return "not searched";
  return h("span", {}, h("span", { class: "meter", style: { "--own": COLOURS[c] } }, h("i", { style: { width: `${(100 * share) / (fullest || 1)}%` } })), percent(share));
}

function sorted() {
  const asked = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = DATA.sites.map((_, k) => k).filter((k) => asked.every((word) => `${DATA.sites[k].short} ${DATA.sites[k].name}`.toLowerCase().includes(word)));
  if (chosen.sort === null) return found;
  const key = COLUMNS[chosen.sort][1];
  const way = chosen.down ? -1 : 1;
  return found.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return way * (x < y ? -1 : x > y ? 1 : 0);
  });
}

function drawTable() {
  const sort = (number) => {
    chosen.down = chosen.sort === number ? !chosen.down : number > 3;
    chosen.sort = number;
    drawTable();
  };
  const pair = DATA.pairs.length ? DATA.pairs[chosen.pair].concepts.map((k) => NAMES[k]).join(" and ") : null;
  at("about").textContent = pair ? `The last four columns are of ${pair}.` : "";
  at("table").replaceChildren(
    h("thead", {}, h("tr", {}, COLUMNS.map(([name, , , c], number) => h("th", { scope: "col", onclick: () => sort(number), "aria-sort": chosen.sort === number ? (chosen.down ? "descending" : "ascending") : null }, c === undefined ? null : swatch(c), name)))),
    h("tbody", {}, sorted().map((k) => h("tr", { class: k === chosen.site ? "chosen" : null, title: DATA.sites[k].name, onclick: () => { choose("site", k); at("layer").scrollIntoView({ behavior: "smooth" }); } },
      COLUMNS.map(([, , shown]) => h("td", {}, shown(k)))))));
}

at("sites").append(
  h("p", { class: "note", id: "about" }),
  h("div", { class: "tools" }, h("input", { id: "filter", type: "search", placeholder: "filter: up cross V", "aria-label": "Filter layers", oninput: () => drawTable() })),
  h("div", { class: "panel sites tall" }, h("table", { id: "table" })));
redraw.pair.push(drawTable);
redraw.site.push(drawTable);
