"use strict";
// Tables as CSV, and what is shown one at a time: the confusion matrix of a run.
const iifTables = (() => {
  const byId = (id) => document.getElementById(id);
  const payload = JSON.parse(byId("payload").textContent);
  for (const part of document.querySelectorAll(".script-only")) part.hidden = false;

  // A text that a spreadsheet would take for a formula gets an apostrophe in front.
  const cell = (value) => {
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value ?? "");
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (rows) => rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
  const runs = (payload.panels ?? []).slice(0, -1);
  const { ids, names } = payload.categories ?? { ids: [], names: [] };
  const MAKERS = {
    thresholds: () => csv([
      ["run", "category_id", "category", "threshold", "precision", "recall", "f1"],
      ...payload.curves.best.flatMap((rows, run) => rows.flatMap((row, k) => (row ? [[runs[run], ids[k], names[k], ...row]] : []))),
    ]),
    confusion: () => {
      const rows = [["run", "category_id", "category", "predicted_id", "predicted", "count"]];
      payload.confusion.forEach((cells, run) => {
        for (let i = 0; i < cells.length; i += 3) {
          const [k, p, count] = cells.slice(i, i + 3);
          rows.push([runs[run], ids[k] ?? "background", names[k] ?? "background", ids[p] ?? "missed", names[p] ?? "missed", count]);
        }
      });
      return csv(rows);
    },
  };
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Without the clipboard's interface, as in a frame: the old command.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };
  const save = (text, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `${name}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  for (const button of document.querySelectorAll("[data-csv]")) {
    const said = button.parentElement.querySelector("output");
    button.addEventListener("click", async () => {
      const text = MAKERS[button.dataset.csv]();
      const lines = `${(text.split("\n").length - 2).toLocaleString("en")} rows`;
      if (button.dataset.do === "save") {
        save(text, button.dataset.csv);
        said.textContent = `Saved: ${lines}`;
      } else said.textContent = (await copy(text)) ? `Copied: ${lines}` : "The browser does not allow it: save the file";
    });
  }

  const chosen = byId("confusion-run");
  const showMatrix = () => {
    document.dispatchEvent(new Event("hidetip"));
    if (chosen.selectedIndex < 0) chosen.selectedIndex = chosen.options.length - 1;
    for (const matrix of document.querySelectorAll(".matrix")) matrix.hidden = matrix.dataset.run !== chosen.value;
  };
  if (chosen) {
    chosen.selectedIndex = -1;
    chosen.addEventListener("change", showMatrix);
    showMatrix();
  }
  return { payload, runs, names, csv: MAKERS };
})();
