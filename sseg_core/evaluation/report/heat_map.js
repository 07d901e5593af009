// The heat map: the cell under the pointer or the arrow keys is told in words.
(() => {
  "use strict";
  const table = document.getElementById("heat");
  if (!table) return;
  const readout = document.getElementById("heat-readout"), hint = readout.textContent;
  const heads = [...table.tHead.rows[0].cells].slice(1), rows = [...table.tBodies[0].rows];
  const cells = rows.map((row) => [...row.cells].slice(1));
  let lit = null, home = cells[0][0]; // home: the one cell that the Tab key reaches
  home.tabIndex = 0;

  const place = (cell) => [cell.parentElement.sectionRowIndex, cell.cellIndex - 1];
  const show = (cell) => {
    if (lit) {
      const [y, x] = place(lit);
      for (const part of [lit, heads[x], rows[y].cells[0]]) part.classList.remove("lit");
    }
    lit = cell;
    if (!cell) { readout.textContent = hint; return; }
    const [y, x] = place(cell);
    for (const part of [cell, heads[x], rows[y].cells[0]]) part.classList.add("lit");
    const truth = rows[y].cells[0].textContent.trim(), answer = heads[x].textContent.trim();
    const pixels = Number(cell.dataset.pixels || 0).toLocaleString("en");
    const verb = cell.classList.contains("right") ? "found" : `taken for \u2068${answer}\u2069`;
    readout.textContent = `\u2068${truth}\u2069 ${verb}: ${cell.dataset.share || 0} % of its pixels (${pixels})`;
  };
  const cellOf = (event) => event.target.closest("td");

  for (const kind of ["pointerover", "click"]) {
    table.addEventListener(kind, (event) => { if (cellOf(event)) show(cellOf(event)); });
  }
  table.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") show(null); });
  table.addEventListener("focusin", (event) => { if (cellOf(event)) show(cellOf(event)); });
  table.addEventListener("focusout", () => show(null));
  table.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step || !cellOf(event)) return;
    event.preventDefault();
    const [y, x] = place(cellOf(event));
    const next = cells[y + step[0]]?.[x + step[1]];
    if (!next) return;
    home.tabIndex = -1;
    home = next;
    home.tabIndex = 0;
    home.focus();
  });
})();
