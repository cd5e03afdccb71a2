"use strict";
// Crops: drawn a batch at a time, so that a page with hundreds opens at once.
(() => {
  const byId = (id) => document.getElementById(id);
  const { payload } = iifTables;
  if (!payload.crops.length) return;
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes, ...children) => {
    const made = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const BATCH = 12;
  // About as wide as a panel is shown, in CSS pixels; sizes of texts in a panel follow from it.
  const SHOWN_WIDTH = 370;
  const MAX_LABELS = 8;
  const list = byId("crop-list");
  const filters = {
    change: byId("crop-change"), kind: byId("crop-kind"), why: byId("crop-why"), group: byId("crop-group"),
    name: byId("crop-category"), truth: byId("crop-truth"),
  };
  for (const key of Object.keys(filters)) if (!filters[key]) delete filters[key];
  let chosen = [];
  let drawn = 0;

  // The lower the score, the thinner the line: from a third of the width to all of it.
  const weight = (score) => (score === null ? 1 : 0.35 + 0.65 * Math.min(1, 2 * score));
  const shapeElement = ([name, kind, score, [x, y, width, height], path, subject]) => {
    const { label, css, greyed } = payload.kinds[kind];
    const words = [payload.names[name], label];
    if (score !== null) words.push(`score ${score.toPrecision(3)}`);
    const group = make("svg:g", {
      class: `shape ${css}${subject ? " subject" : ""}${greyed ? " greyed" : ""}`, "data-tip": words.join("\n"),
    });
    group.style.setProperty("--weight", weight(score).toFixed(2));
    if (path) group.append(make("svg:path", { d: path }));
    // A light line under the coloured one: outlines are seen on any picture.
    group.append(make("svg:rect", { class: "casing", x, y, width, height }), make("svg:rect", { x, y, width, height }));
    return group;
  };
  const labelElements = (crop, shapes) => {
    const size = (11 * crop.w) / SHOWN_WIDTH;
    const taken = [];
    const labels = [];
    for (const [name, kind, score, [x, y, width, height], , subject] of shapes) {
      if (labels.length === MAX_LABELS) break;
      const text = payload.short[name] + (score === null ? "" : ` ${score.toFixed(2)}`);
      const w = 0.56 * size * text.length;
      const left = Math.max(1, Math.min(x, crop.w - w - 1));
      // Above the box, else just inside it, else below it; a label without a free place is left out.
      const tops = [y - 0.35 * size, y + size, y + height + size];
      const base = tops.find((at) => at >= size && at <= crop.h - 1
        && !taken.some(([l, b, r]) => left < r && l < left + w && Math.abs(b - at) < 1.15 * size));
      if (base === undefined) continue;
      taken.push([left, base, left + w]);
      labels.push(make("svg:text", {
        class: `tag ${payload.kinds[kind].css}${payload.kinds[kind].greyed ? " greyed" : ""}${subject ? " subject" : ""}`,
        x: left.toFixed(1), y: base.toFixed(1), style: `font-size:${size.toFixed(2)}px;stroke-width:${(size / 4).toFixed(2)}px`,
      }, text));
    }
    return labels;
  };
  const panelElement = (crop, panel) => {
    const shapes = crop.panels[panel];
    const counted = `${shapes.length}${crop.leftOut[panel] ? ` of ${shapes.length + crop.leftOut[panel]}` : ""}`;
    const title = `${payload.panels[panel]}`;
    const svg = make("svg:svg", {
      viewBox: `0 0 ${crop.w} ${crop.h}`, role: "img", tabindex: 0, "data-roving": "",
      "aria-label": `${title}: ${counted} outlined; arrow keys go from one to the next`,
    });
    svg.append(make("svg:image", { href: crop.src, width: crop.w, height: crop.h }));
    // Large ones first, so that a small one inside can be pointed at; the subject on top.
    const order = [...shapes].sort((a, b) => a[5] - b[5] || b[3][2] * b[3][3] - a[3][2] * a[3][3]);
    svg.append(...order.map(shapeElement), ...labelElements(crop, shapes));
    return make("figure", {}, make("figcaption", {}, `${title} (${counted})`), svg);
  };
  // The whole image, with the crop's place in it: drawn when it is asked for.
  const wholeElement = (crop) => {
    const whole = payload.wholes[crop.id];
    if (!whole) return [];
    const details = make("details", { class: "whole" }, make("summary", {}, "Whole image"));
    details.addEventListener("toggle", () => {
      if (details.querySelector("svg")) return;
      const [x, y, width, height] = crop.window;
      const svg = make("svg:svg", {
        viewBox: `0 0 ${whole.w} ${whole.h}`, role: "img",
        "aria-label": `Image ${crop.id}, ${whole.w} by ${whole.h} pixels, with the place of the crop`,
      });
      svg.append(
        make("svg:image", { href: whole.src, width: whole.w, height: whole.h }),
        make("svg:rect", { class: "window", x, y, width, height }),
      );
      details.append(svg, make("p", {}, `${crop.file}: the crop is ${width} by ${height} of ${whole.w} by ${whole.h} pixels`));
    });
    return [details];
  };
  const cropElement = (crop) => {
    const missed = !crop.name;
    const truth = missed ? "" : `in truth: ${crop.truth || "nothing annotated there"}`;
    const title = missed ? `Missed: ${crop.truth} ` : `Detected: ${crop.name} `;
    const heading = make("h3", {}, title, make("span", { class: "quiet" }, crop.groupName));
    if (truth) heading.append(make("span", { class: "truth" }, truth));
    const words = [crop.about, payload.changes[crop.change], `image ${crop.id}`].filter(Boolean);
    const panels = make("div", { class: "panels" }, ...crop.panels.map((_, panel) => panelElement(crop, panel)));
    panels.style.setProperty("--panels", crop.panels.length);
    return make(
      "article", { class: "crop" }, make("header", {}, heading, make("p", {}, words.join(" · "))), panels, ...wholeElement(crop),
    );
  };
  const drawMore = () => {
    list.append(...chosen.slice(drawn, drawn + BATCH).map(cropElement));
    drawn = Math.min(drawn + BATCH, chosen.length);
    const all = payload.crops.length;
    const matching = chosen.length < all ? ` that match, of ${all} in all` : "";
    byId("crop-count").textContent = `${drawn} of ${chosen.length} shown${matching}`;
    byId("crop-more").hidden = drawn >= chosen.length;
  };
  const filterCrops = () => {
    document.dispatchEvent(new Event("hidetip"));
    chosen = payload.crops.filter((crop) =>
      Object.entries(filters).every(([key, select]) => !select.value || crop[key] === select.value));
    drawn = 0;
    list.replaceChildren();
    drawMore();
  };
  const collator = new Intl.Collator("en", { numeric: true });
  for (const key of ["name", "truth"]) {
    const values = [...new Set(payload.crops.map((crop) => crop[key]))].filter(Boolean).sort(collator.compare);
    filters[key].append(...values.map((value) => make("option", { value }, value)));
  }
  for (const select of Object.values(filters)) select.addEventListener("change", filterCrops);
  for (const what of ["masks", "boxes", "labels", "ignored", "unverifiable"]) {
    const box = byId(`show-${what}`);
    if (!box) continue;
    const apply = () => list.classList.toggle(`no-${what}`, !box.checked);
    box.addEventListener("change", apply);
    apply();
  }
  byId("crop-more").addEventListener("click", () => {
    const before = list.children.length;
    drawMore();
    // The button may be gone: go on where the new crops begin.
    if (byId("crop-more").hidden) list.children[before].querySelector("svg").focus();
  });
  filterCrops();
})();
