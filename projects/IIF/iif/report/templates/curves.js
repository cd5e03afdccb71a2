"use strict";
// The curves of one category: precision against recall, F1 against the threshold; and all thresholds.
(() => {
  const byId = (id) => document.getElementById(id);
  const { payload, runs, names } = iifTables;
  const { curves } = payload;
  if (!curves || !byId("curve-category")) return;
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 560, HEIGHT = 320, LEFT = 62, RIGHT = 28, TOP = 14, BOTTOM = 44;
  const svg = (name, attributes, ...children) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const element = (name, attributes, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const place = {
    x: (share) => LEFT + share * (WIDTH - RIGHT - LEFT),
    y: (share) => HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP),
  };
  // Ticks of x: percents, or thresholds up to `top`.
  const frame = (xLabel, yLabel, top) => {
    const parts = [];
    for (const share of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
      const [x, y] = [place.x(share), place.y(share)];
      parts.push(
        svg("path", { class: "grid", d: `M${LEFT} ${y}H${WIDTH - RIGHT}` }),
        svg("text", { x: LEFT - 7, y, dy: 4, "text-anchor": "end" }, String(Math.round(100 * share))),
        svg("path", { class: "axis", d: `M${x} ${HEIGHT - BOTTOM}v5` }),
        svg("text", { x, y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, top ? String(Number((top * share).toPrecision(2))) : String(Math.round(100 * share))),
      );
    }
    const middle = (TOP + HEIGHT - BOTTOM) / 2;
    return [
      ...parts,
      svg("path", { class: "axis", d: `M${LEFT} ${HEIGHT - BOTTOM}H${WIDTH - RIGHT}` }),
      svg("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, xLabel),
      svg("text", { transform: `translate(13 ${middle}) rotate(-90)`, "text-anchor": "middle" }, yLabel),
    ];
  };
  const decode = (text) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const points = [];
    for (let i = 0; i < bytes.length; i += 4) {
      const [precision, recall] = [bytes[i + 2] / 255, bytes[i + 3] / 255];
      const f1 = precision + recall > 0 ? (2 * precision * recall) / (precision + recall) : 0;
      points.push({ threshold: (256 * bytes[i] + bytes[i + 1]) / 65535, precision, recall, f1 });
    }
    return points;
  };
  const number = (value, digits = 1) => (value === null ? "-" : value.toFixed(digits));
  const percent = (share) => `${(100 * share).toFixed(0)}%`;
  const tipOf = (run, point) => [
    runs[run], `score at least ${point.threshold.toPrecision(2)}`,
    `precision ${percent(point.precision)}, recall ${percent(point.recall)}, F1 ${percent(point.f1)}`,
  ].join("\n");
  const chart = (label, axes, xOf, yOf, all, bests) => {
    const made = svg("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0, "data-roving": "", "aria-label": label,
    }, ...axes);
    all.forEach((points, run) => {
      const path = points.map((point) => `${place.x(xOf(point)).toFixed(1)},${place.y(yOf(point)).toFixed(1)}`).join(" ");
      made.append(svg("polyline", { class: `curve run-${run}`, points: path }));
    });
    const marks = all.flatMap((points, run) => points.map((point) => ({ run, point })));
    marks.sort((a, b) => xOf(a.point) - xOf(b.point));
    for (const { run, point } of marks) {
      const best = point === bests[run];
      made.append(svg("circle", {
        class: `dot hit run-${run}${best ? " best" : ""}`, cx: place.x(xOf(point)).toFixed(1), cy: place.y(yOf(point)).toFixed(1),
        r: best ? 6 : 3, "data-tip": tipOf(run, point) + (best ? "\nthe best F1" : ""),
      }));
    }
    return made;
  };
  const rowOf = new Map(names.map((name, k) => [name, k]));
  const input = byId("curve-category");
  const bestCells = (row) => (row ? [number(row[0], row[0] < 0.1 ? 3 : 2), number(row[1]), number(row[2]), number(row[3])] : ["-", "-", "-", "-"]);
  const show = (k) => {
    document.dispatchEvent(new Event("hidetip"));
    const all = curves.points.map((rows) => decode(rows[k]));
    const bests = all.map((points) => points.reduce((best, point) => (point.f1 > (best?.f1 ?? 0) ? point : best), null));
    const name = names[k];
    const highest = Math.max(0, ...all.flat().map((point) => point.threshold));
    const top = [0.05, 0.1, 0.2, 0.5, 1].find((limit) => highest <= limit) ?? 1;
    byId("curve-precision").replaceChildren(chart(
      `Precision against recall of ${name}`, frame("recall, %", "precision, %"), (p) => p.recall, (p) => p.precision, all, bests));
    byId("curve-f1").replaceChildren(chart(
      `F1 against the score threshold of ${name}`, frame("score threshold", "F1, %", top), (p) => p.threshold / top, (p) => p.f1, all, bests));
    byId("curve-table").tBodies[0].replaceChildren(...runs.map((run, i) => element(
      "tr", {}, element("th", { scope: "row", class: "text" }, run), ...bestCells(curves.best[i][k]).map((text) => element("td", {}, text)))));
    byId("curve-note").textContent = curves.best.some((rows) => rows[k]) ? name : `${name}: no objects here`;
  };
  // While a name is typed, the last category that was named in full stays.
  const choose = () => {
    const k = rowOf.get(input.value.trim());
    if (k !== undefined) show(k);
    else if (input.value.trim() === "") show(curves.initial);
    else byId("curve-note").textContent = `no category "${input.value.trim()}"`;
  };
  byId("curve-names").append(...names.map((name) => element("option", { value: name })));
  input.addEventListener("input", choose);
  input.placeholder = names[curves.initial];
  show(curves.initial);

  // All thresholds: made when they are asked for.
  const details = byId("threshold-all");
  details.addEventListener("toggle", () => {
    const box = details.querySelector(".scroll");
    if (box.firstChild) return;
    const heads = ["Threshold", "Precision, %", "Recall, %", "F1, %"];
    const head = element("thead", {},
      element("tr", {}, element("th", { scope: "col", rowspan: 2, class: "text" }, "Category"),
        ...runs.map((run) => element("th", { scope: "colgroup", colspan: 4, class: "span" }, run))),
      element("tr", {}, ...runs.flatMap(() => heads.map((text, i) => element("th", { scope: "col", class: i ? "" : "start" }, text)))));
    const body = element("tbody", {});
    names.forEach((name, k) => {
      if (!curves.best.some((rows) => rows[k])) return;
      const link = element("a", { class: "cell-link", href: `#thresholds?category=${encodeURIComponent(name)}` }, name);
      body.append(element("tr", {}, element("th", { scope: "row", class: "text name" }, link),
        ...curves.best.flatMap((rows) => bestCells(rows[k]).map((text, i) => element("td", i ? {} : { class: "start" }, text)))));
    });
    box.append(element("table", { class: "dense" }, head, body));
  });
})();
