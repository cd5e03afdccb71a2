"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const svgElement = (name, attributes) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const element = (name, attributes, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  // Tooltips: [data-tip] on hover; inside svg[data-roving] also with the arrow keys.
  const tip = byId("tip");
  const announce = byId("announce");
  let current = null;
  let byKeys = false;

  const hideTip = () => {
    tip.hidden = true;
    if (current) current.classList.remove("current");
    current = null;
  };
  const showTip = (mark, x, y) => {
    hideTip();
    current = mark;
    byKeys = false;
    mark.classList.add("current");
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const { clientWidth, clientHeight } = document.documentElement;
    const below = y + 16 + box.height <= clientHeight;
    tip.style.left = `${Math.max(8, Math.min(x + 12, clientWidth - box.width - 8))}px`;
    tip.style.top = `${Math.max(8, below ? y + 16 : y - box.height - 10)}px`;
  };
  const showTipAt = (mark) => {
    const box = mark.getBoundingClientRect();
    const frame = mark.ownerSVGElement.getBoundingClientRect();
    // The part of the mark that can be seen: an outline may reach beyond its picture.
    const x = Math.max(frame.left, Math.min((box.left + box.right) / 2, frame.right));
    const y = Math.max(frame.top, Math.min(box.bottom, frame.bottom));
    showTip(mark, x, y - 12);
    byKeys = true;
    announce.textContent = mark.dataset.tip.replaceAll("\n", ", ");
  };
  // Marks that are drawn (checkVisibility is true of SVG elements without display).
  const marksOf = (svg) =>
    [...svg.querySelectorAll("[data-tip]")].filter((mark) => mark.getBoundingClientRect().width > 0);

  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest?.("[data-tip]");
    if (mark) showTip(mark, event.clientX, event.clientY);
    else if (current && !byKeys) hideTip();
  });
  document.addEventListener("pointerleave", hideTip);
  document.addEventListener("focusin", (event) => {
    if (!event.target.matches("svg[data-roving]:focus-visible")) return;
    const marks = marksOf(event.target);
    const first = marks.find((mark) => mark.classList.contains("subject")) ?? marks[0];
    if (first) showTipAt(first);
  });
  document.addEventListener("focusout", hideTip);
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
    if (!event.target.matches("svg[data-roving]")) return;
    const marks = marksOf(event.target);
    let next = null;
    if (event.key in STEPS) {
      const start = current ? marks.indexOf(current) : -1;
      next = marks[(Math.max(start, STEPS[event.key] - 1) + STEPS[event.key] + marks.length) % marks.length];
      if (start < 0) next = marks[0];
    } else if (event.key === "Home") next = marks[0];
    else if (event.key === "End") next = marks.at(-1);
    if (!next) return;
    event.preventDefault();
    showTipAt(next);
  });
  // Moving the focus may scroll the page, after the tooltip was placed.
  document.addEventListener("scroll", () => {
    if (current && byKeys) showTipAt(current);
    else if (current) hideTip();
  }, { passive: true, capture: true });

  // Sortable tables: numbers from the greatest down first, text from A; undefined always last.
  const collator = new Intl.Collator("en", { numeric: true });
  const toNumber = (text) => (text === "-" ? NaN : Number(text.replaceAll(",", "").replace("−", "-").replace("%", "")));
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, column) => {
      let keys = null;
      head.querySelector("button").addEventListener("click", () => {
        const texts = rows.map((row) => row.cells[column].textContent);
        const numeric = texts.every((text) => text === "-" || !Number.isNaN(toNumber(text)));
        keys ??= new Map(rows.map((row, i) => [row, numeric ? toNumber(texts[i]) : texts[i]]));
        const was = head.getAttribute("aria-sort");
        const down = was === "descending" ? false : was === "ascending" ? true : numeric;
        const sign = down ? -1 : 1;
        rows.sort((a, b) => {
          const [x, y] = [keys.get(a), keys.get(b)];
          if (!numeric) return sign * collator.compare(x, y);
          if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
          return sign * (x - y);
        });
        body.append(...rows);
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      });
    });
  }

  // Search and group filter of the category table.
  const categoryRows = [...byId("category-table").tBodies[0].rows].map((row) => ({
    row, name: row.cells[0].textContent.toLowerCase().replaceAll("_", " "), group: row.dataset.g,
  }));
  const filterCategories = () => {
    const text = byId("category-search").value.trim().toLowerCase().replaceAll("_", " ");
    const group = byId("category-group").value;
    let shown = 0;
    for (const { row, name, group: own } of categoryRows) {
      const match = name.includes(text) && (!group || own === group);
      row.hidden = !match;
      shown += match;
    }
    const all = categoryRows.length;
    const count = byId("category-count");
    const noun = count.dataset.noun;
    count.textContent =
      shown === all ? `${all.toLocaleString("en")} ${noun}`
        : `${shown.toLocaleString("en")} of ${all.toLocaleString("en")} ${noun}`;
  };
  byId("category-search").addEventListener("input", filterCategories);
  byId("category-group").addEventListener("change", filterCategories);
  filterCategories();

  // Crops: drawn a batch at a time, so that a page with hundreds opens at once.
  const payload = JSON.parse(byId("payload")?.textContent ?? '{"crops":[]}');
  if (!payload.crops.length) return;
  const BATCH = 12;
  const list = byId("crop-list");
  const filters = {
    change: byId("crop-change"), kind: byId("crop-kind"), group: byId("crop-group"), name: byId("crop-category"),
  };
  for (const key of Object.keys(filters)) if (!filters[key]) delete filters[key];
  let chosen = [];
  let drawn = 0;

  const shapeElement = ([name, kind, score, [x, y, width, height], path, subject]) => {
    const { label, css, greyed } = payload.kinds[kind];
    const words = [payload.names[name], label];
    if (score !== null) words.push(`score ${score.toPrecision(3)}`);
    const group = svgElement("g", {
      class: `shape ${css}${subject ? " subject" : ""}${greyed ? " greyed" : ""}`, "data-tip": words.join("\n"),
    });
    if (path) group.append(svgElement("path", { d: path }));
    // A light line under the coloured one: outlines are seen on any picture.
    group.append(svgElement("rect", { class: "casing", x, y, width, height }));
    group.append(svgElement("rect", { x, y, width, height }));
    return group;
  };
  const panelElement = (crop, panel) => {
    const shapes = crop.panels[panel];
    const counted = `${shapes.length}${crop.leftOut[panel] ? ` of ${shapes.length + crop.leftOut[panel]}` : ""}`;
    const title = `${payload.panels[panel]}`;
    const svg = svgElement("svg", {
      viewBox: `0 0 ${crop.w} ${crop.h}`, role: "img", tabindex: 0, "data-roving": "",
      "aria-label": `${title}: ${counted} outlined; arrow keys go from one to the next`,
    });
    svg.append(svgElement("image", { href: crop.src, width: crop.w, height: crop.h }));
    // Large ones first, so that a small one inside can be pointed at; the subject on top.
    const order = [...shapes].sort((a, b) => a[5] - b[5] || b[3][2] * b[3][3] - a[3][2] * a[3][3]);
    svg.append(...order.map(shapeElement));
    return element("figure", {}, element("figcaption", {}, `${title} (${counted})`), svg);
  };
  const cropElement = (crop) => {
    const heading = element("h3", {}, crop.name, " ", element("span", { class: "quiet" }, crop.groupName));
    const words = [crop.kind, payload.changes[crop.change], `image ${crop.id}`].filter(Boolean);
    const panels = element("div", { class: "panels" }, ...crop.panels.map((_, panel) => panelElement(crop, panel)));
    panels.style.setProperty("--panels", crop.panels.length);
    return element("article", { class: "crop" }, element("header", {}, heading, element("p", {}, words.join(" · "))), panels);
  };
  const drawMore = () => {
    list.append(...chosen.slice(drawn, drawn + BATCH).map(cropElement));
    drawn = Math.min(drawn + BATCH, chosen.length);
    const count = chosen.length === payload.crops.length ? `${chosen.length} crops` : `${chosen.length} of ${payload.crops.length} crops`;
    byId("crop-count").textContent = drawn < chosen.length ? `${count}, ${drawn} shown` : count;
    byId("crop-more").hidden = drawn >= chosen.length;
  };
  const filterCrops = () => {
    hideTip();
    chosen = payload.crops.filter((crop) =>
      Object.entries(filters).every(([key, select]) => !select.value || crop[key] === select.value));
    drawn = 0;
    list.replaceChildren();
    drawMore();
  };
  const names = [...new Set(payload.crops.map((crop) => crop.name))].sort(collator.compare);
  filters.name.append(...names.map((name) => element("option", { value: name }, name)));
  for (const select of Object.values(filters)) select.addEventListener("change", filterCrops);
  for (const what of ["masks", "boxes", "greyed"]) {
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
