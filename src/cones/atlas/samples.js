// Pictures of one noise, untouched and with the neurons shut, and where every word looks (Fig. 2).
for (const drawn of DATA.samples || []) {
  at("samples").hidden = false;
  const row = (side, said) => [h("h4", {}, said),
    h("div", { class: "row" },
      h("figure", { class: "first" }, h("img", { src: side.picture, alt: `${drawn.prompt}, ${said}` }), h("figcaption", {}, "the picture")),
      side.maps.map((map) => h("figure", {}, h("img", { src: map.picture, alt: `attention of ${map.word}, ${said}` }), h("figcaption", {}, map.word))))];
  at("samples").append(h("article", { class: "panel drawn", style: { "margin-top": "12px" } },
    h("h3", {}, drawn.prompt),
    h("p", { class: "note", style: { margin: "0" } }, `Both rows start from the same noise (seed ${drawn.seed}, ${drawn.steps} steps). Right of each picture: where every word of the prompt looks, light is much; each map has its own scale.`),
    row(drawn.untouched, "untouched model"), row(drawn.shut, `neurons shut: ${drawn.concepts.map((k) => NAMES[k]).join(" + ")}`)));
}
