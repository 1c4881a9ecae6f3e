"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headers = Array.from(table.tHead.rows[0].cells);
  headers.forEach((header, column) => {
    const value = (row) => parseFloat(row.cells[column].dataset.value); // NaN, what is not known, comes last
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const sign = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const compare = (a, b) => isNaN(a) - isNaN(b) || (a === b || isNaN(a) ? 0 : sign * (a < b ? -1 : 1));
      body.append(...Array.from(body.rows).sort((a, b) => compare(value(a), value(b))));
    });
  });
}
for (const row of document.querySelectorAll("tr.pick")) {
  const box = row.closest(".scroll");
  box.scrollTop = row.offsetTop - box.clientHeight / 2; // the first row in sight would be far from the pick
}
for (const hint of document.querySelectorAll(".hint")) hint.hidden = false;
