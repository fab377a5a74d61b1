// A card for every concept: figures, certificate, levels, density by block and by head.
const KINDS = [["self", "K"], ["self", "V"], ["cross", "K"], ["cross", "V"], ["other", "other"]];
const SAID = { subject: "subject", prior: "prior", loss: "both" };
const hottest = largest(DATA.blocks.flat().map((row) => row.density));

DATA.concepts.forEach((concept, k) => {
  at("cards").append(
    h("article", { class: "panel card", style: { "--own": COLOURS[k] } },
      h("div", { class: "top" }, h("h3", {}, h("i", { class: "swatch" }), NAMES[k]), badge(concept)),
      h("dl", { class: "facts" },
        fact("density", percent(concept.density)),
        fact("neurons", whole(concept.neurons), `of ${whole(concept.searched)}`),
        fact("file", `${(concept.bytes / 1000).toFixed(1)} kB`)),
      h("p", { class: "file" }, `${concept.file} · found on ${concept.base}`),
      ...losses(concept), ...levels(concept), ...blocks(k), ...heads(k), settings(concept)));
});

function fact(name, value, small) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value, small ? h("small", {}, ` ${small}`) : null));
}

function change(concept, side, loss) {
  const all = concept.losses;
  return all[side] && all.untouched ? all[side][loss] - all.untouched[loss] : NaN;
}

function badge(concept) {
  const by = change(concept, "shut", "loss");
  if (!Number.isFinite(by)) return h("span", { class: "badge none" }, "not measured");
  const kind = by > 0 ? "bad" : "good";
  return h("span", { class: `badge ${kind}`, "data-tip": "Change of the held-out loss (Eq. 4) when the neurons are shut" },
    by > 0 ? `raises loss ${signed(by, 4)}` : `loss ${signed(by, 4)}`);
}

function losses(concept) {
  const known = Object.keys(SAID).filter((loss) => Number.isFinite(change(concept, "shut", loss)));
  if (!known.length) return [];
  const reach = largest(known.flatMap((l) => [change(concept, "shut", l), change(concept, "random", l)]).map(Math.abs)
    .concat(concept.error || 0)) * 1.05 || 1;
  const x = (value) => 100 + (100 * value) / reach;
  const rows = known.map((loss) => {
    const shut = change(concept, "shut", loss);
    const random = change(concept, "random", loss);
    const bar = (value, y, fill) => s("rect", { x: Math.min(x(value), 100), width: Math.max(Math.abs(x(value) - 100), 0.7), y, height: 9, rx: 1.5, style: { fill } });
    const parts = [s("line", { x1: 100, x2: 100, y1: 0, y2: 26, stroke: "var(--soft)", "stroke-width": 0.7 })];
    if (Number.isFinite(random)) parts.push(bar(random, 3, "var(--soft)"));
    parts.push(bar(shut, 14, "var(--own)"));
    if (loss === "loss" && concept.error) {
      parts.push(s("line", { x1: x(shut - concept.error), x2: x(shut + concept.error), y1: 18.5, y2: 18.5, stroke: "var(--ink)", "stroke-width": 1 }));
    }
    return [
      h("span", {}, SAID[loss]),
      h("span", { class: "head" }, concept.losses.untouched[loss].toFixed(4)),
      s("svg", { viewBox: "0 0 200 26", height: 26, preserveAspectRatio: "none", "data-tip": `Change from the untouched model\nrandom mask ${signed(random, 4)}\nneurons shut ${signed(shut, 4)}` }, ...parts),
      h("span", { class: "change" }, `random ${signed(random, 4)}`, h("br"), h("span", { class: "own" }, `shut ${signed(shut, 4)}`)),
    ];
  });
  const samples = concept.samples ? `${whole(concept.samples)} held-out samples` : "held-out samples";
  return [h("h4", {}, `Certificate: change of the loss on ${samples}`),
    h("div", { class: "losses" }, h("span"), h("span", { class: "head" }, "untouched"), h("span", { class: "head", style: { "text-align": "center" } }, "falls ← 0 → rises"), h("span"), rows.flat())];
}

function levels(concept) {
  const points = concept.curve.filter((p) => p.density > 0 && Number.isFinite(p.loss));
  const before = concept.losses.untouched && concept.losses.untouched.loss;
  if (points.length < 2 || !Number.isFinite(before)) return [];
  const [left, right, top, bottom] = [52, 348, 10, 88];
  const logs = points.map((p) => Math.log(p.density));
  const high = Math.max(before, ...points.map((p) => p.loss));
  const low = Math.min(before, ...points.map((p) => p.loss));
  const x = (d) => left + ((right - left) * (Math.log(d) - Math.min(...logs))) / (Math.max(...logs) - Math.min(...logs) || 1);
  const y = (v) => bottom - ((bottom - top) * (v - low)) / (high - low || 1);
  const used = points.reduce((a, b) => (Math.abs(b.density - concept.density) < Math.abs(a.density - concept.density) ? b : a));
  const ticks = [points[0], points[points.length - 1], used];
  const apart = ticks.filter((p, k) => k === 2 || Math.abs(x(p.density) - x(used.density)) > 44);
  return [h("h4", {}, "The same loss at every stored density"),
    s("svg", { viewBox: "0 0 360 108", width: "100%", role: "img" },
      s("line", { x1: left, x2: right, y1: y(before), y2: y(before), stroke: "var(--soft)", "stroke-dasharray": "4 3" }),
      s("text", { x: left - 6, y: y(before) + 4, "text-anchor": "end" }, before.toFixed(3)),
      [high, low].filter((v) => Math.abs(y(v) - y(before)) > 13).map((v) => s("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(3))),
      s("polyline", { points: points.map((p) => `${x(p.density)},${y(p.loss)}`).join(" "), fill: "none", stroke: "var(--own)", "stroke-width": 2 }),
      points.map((p) => s("circle", { cx: x(p.density), cy: y(p.loss), r: p === used ? 5.5 : 3, fill: p === used ? "var(--own)" : "var(--panel)", stroke: "var(--own)", "stroke-width": 1.6, "data-tip": `${percent(p.density)} of the weights\nloss ${p.loss.toFixed(4)} (${signed(p.loss - before, 4)})${p === used ? "\nin use" : ""}` })),
      apart.map((p) => s("text", { x: x(p.density), y: 105, "text-anchor": p === points[0] ? "start" : p === points[points.length - 1] ? "end" : "middle" }, percent(p.density))))];
}

function blocks(k) {
  const rows = DATA.blocks[k];
  const names = [...new Set(rows.map((row) => row.block))];
  const kinds = KINDS.filter(([a, r]) => rows.some((row) => row.attention === a && row.role === r));
  const cells = kinds.flatMap(([attention, role]) => [
    h("span", { class: "label" }, attention === "other" ? "other" : `${attention} ${role}`),
    ...names.map((block) => {
      const row = rows.find((r) => r.block === block && r.attention === attention && r.role === role);
      if (!row) return h("span", { class: "cell" });
      const share = row.density / (hottest || 1);
      return h("span", { class: "cell", style: { background: blend("var(--heat)", share), color: share > 0.62 ? "var(--panel)" : "var(--ink)" }, "data-tip": `${block}, ${attention} ${role}\n${whole(row.neurons)} of ${whole(row.total)} weights\n${percent(row.density, 3)}` },
        (100 * row.density).toFixed(1));
    })]);
  return [h("h4", {}, "Density by block, %"),
    h("div", { class: "heat", style: { "grid-template-columns": `auto repeat(${names.length}, minmax(0, 1fr))` } },
      h("span"), names.map((n) => h("span", { class: "label top" }, n.replace("_blocks.", " ").replace("_block", ""))), cells),
    h("div", { class: "scale" }, "0 %", h("i"), `${percent(hottest, 1)} (one scale for all cards)`)];
}

// One column for every attention layer, keys and values together.
function heads(k) {
  const columns = new Map();
  DATA.sites.forEach((site, j) => {
    const counts = DATA.heads[k][j];
    if (!counts) return;
    const name = site.short.replace(/ [KV]$/, "");
    const found = columns.get(name) || { counts: counts.map(() => 0), size: 0, site: j };
    if (found.counts.length !== counts.length) return;
    counts.forEach((n, head) => { found.counts[head] += n; });
    found.size += (site.shape[0] * site.shape[1]) / counts.length;
    columns.set(name, found);
  });
  if (!columns.size) return [];
  const all = [...columns.entries()];
  const most = Math.max(...all.map(([, c]) => c.counts.length));
  const top = largest(all.flatMap(([, c]) => c.counts.map((n) => n / c.size)));
  const rows = Array.from({ length: most }, (_, head) => [
    h("span", { class: "label" }, most > 8 && head % 4 ? "" : `head ${head + 1}`),
    ...all.map(([name, c]) => head < c.counts.length
      ? h("span", { class: "cell thin", style: { background: blend("var(--own)", c.counts[head] / c.size / (top || 1)), cursor: "pointer" }, onclick: () => choose("site", c.site), "data-tip": `${name}, head ${head + 1} of ${c.counts.length}\n${whole(c.counts[head])} neurons, ${percent(c.counts[head] / c.size)} of its K and V` })
      : h("span"))]);
  return [h("h4", {}, `Density by head (columns: ${all.length} attention layers, entry to exit; up to ${percent(top, 1)})`),
    h("div", { class: "heat", style: { "grid-template-columns": `auto repeat(${all.length}, minmax(0, 1fr))`, gap: "2px" } }, rows)];
}

function settings(concept) {
  const rows = Object.entries(concept.settings).concat([["mask", concept.digest]]);
  return h("details", {}, h("summary", {}, "How it was found"),
    h("div", { class: "settings" }, rows.flatMap(([name, value]) => [h("span", {}, name), h("span", {}, typeof value === "string" ? value : JSON.stringify(value))])));
}
