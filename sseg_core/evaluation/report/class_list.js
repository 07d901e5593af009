// Lists of classes: sorted by a column, filtered by a word.
(() => {
  "use strict";
  for (const list of document.querySelectorAll(".class-list")) {
    const body = list.querySelector("tbody"), rows = [...body.rows];
    const search = list.querySelector("input[type=search]"), count = list.querySelector(".count");
    const buttons = [...list.querySelectorAll("button[data-sort]")];
    const name = (row) => row.querySelector("bdi").textContent;
    const value = (row, key) => (row.dataset[key] === "" ? -Infinity : Number(row.dataset[key]));

    for (const button of buttons) {
      button.addEventListener("click", () => {
        const key = button.dataset.sort;
        const compare = {
          name: (a, b) => name(a).localeCompare(name(b)),
          order: (a, b) => value(a, key) - value(b, key),
        }[key] || ((a, b) => value(b, key) - value(a, key) || value(a, "order") - value(b, "order"));
        body.append(...rows.sort(compare));
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      });
    }
    search.addEventListener("input", () => {
      const word = search.value.trim().toLowerCase();
      let found = 0;
      for (const row of rows) {
        row.hidden = !name(row).toLowerCase().includes(word);
        found += !row.hidden;
      }
      count.textContent = word ? `${found} of ${rows.length}` : "";
    });
  }
})();
