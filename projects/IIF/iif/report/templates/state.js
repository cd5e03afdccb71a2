"use strict";
// The page's state is in its address: #section?filter=value. A link to a state is a plain link.
(() => {
  const byId = (id) => document.getElementById(id);
  // Section -> parameter -> the control that it sets.
  const CONTROLS = {
    categories: { search: "category-search", in: "category-group" },
    crops: {
      change: "crop-change", kind: "crop-kind", why: "crop-why", group: "crop-group", name: "crop-category", truth: "crop-truth",
    },
    thresholds: { category: "curve-category" },
    confusions: { run: "confusion-run" },
  };
  const controls = Object.entries(CONTROLS).flatMap(([section, parts]) =>
    Object.entries(parts).map(([key, id]) => ({ section, key, element: byId(id) }))).filter(({ element }) => element);
  const table = byId("category-table");
  const heads = table ? [...table.tHead.rows[table.tHead.rows.length - 1].cells] : [];
  const SIGNS = { ascending: "", descending: "-" };
  let applying = false;

  const sorting = () => {
    const column = heads.findIndex((head) => head.getAttribute("aria-sort") in SIGNS);
    return column < 0 ? "" : `${SIGNS[heads[column].getAttribute("aria-sort")]}${column}`;
  };
  const sortBy = (text) => {
    const head = heads[Number(text.replace("-", ""))];
    if (!head || !text) return;
    const wanted = text.startsWith("-") ? "descending" : "ascending";
    for (let tries = 0; tries < 2 && head.getAttribute("aria-sort") !== wanted; tries++) head.querySelector("button").click();
  };
  const write = (section) => {
    if (applying) return;
    const words = new URLSearchParams();
    for (const control of controls) if (control.section === section && control.element.value) words.set(control.key, control.element.value);
    if (section === "categories" && sorting()) words.set("sort", sorting());
    const query = words.toString();
    history.replaceState(null, "", `#${section}${query && `?${query}`}`);
  };
  const read = () => {
    const [section, query = ""] = location.hash.slice(1).split("?");
    const target = byId(decodeURIComponent(section));
    if (!target) return;
    const words = new URLSearchParams(query);
    if (query && section in CONTROLS) {
      applying = true;
      for (const { section: own, key, element } of controls) {
        if (own !== section) continue;
        element.value = words.get(key) ?? "";
        // A value that is not offered selects nothing: show all instead of none.
        if (element.selectedIndex === -1) element.value = "";
        element.dispatchEvent(new Event(element.type === "search" ? "input" : "change"));
      }
      if (section === "categories" && words.get("sort")) sortBy(words.get("sort"));
      applying = false;
      target.scrollIntoView();
    }
    for (let part = target.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
  };
  for (const { section, element } of controls) {
    element.addEventListener(element.type === "search" ? "input" : "change", () => write(section));
  }
  for (const head of heads) head.querySelector("button").addEventListener("click", () => write("categories"));
  // A mark of a chart that leads somewhere: by click, and with Enter where the arrow keys are.
  document.addEventListener("click", (event) => {
    const mark = event.target.closest?.("[data-href]");
    if (mark) location.hash = mark.dataset.href;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !event.target.matches?.("svg[data-roving]")) return;
    const mark = event.target.querySelector("[data-href].current");
    if (mark) location.hash = mark.dataset.href;
  });
  addEventListener("hashchange", read);
  read();
})();
