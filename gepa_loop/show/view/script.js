"use strict";
/* Sorting, and two runs of one task at most. Without this the list and the form work as well. */
(() => {
  const table = document.getElementById("runs");
  if (!table) return;
  const body = table.tBodies[0];
  const headings = [...table.querySelectorAll("[data-sort]")];

  function sort(heading) {
    const place = heading.cellIndex;
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[place].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what is not known comes last, both ways
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? -order : order;
    });
    body.append(...rows);
  }

  for (const heading of headings) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => sort(heading));
  }

  const boxes = [...table.querySelectorAll("input[type=checkbox]")];
  const go = document.getElementById("compare"), said = document.getElementById("chosen");
  function choose() {
    const chosen = boxes.filter((box) => box.checked);
    const first = chosen.length ? chosen[0].closest("tr").dataset : null;
    for (const box of boxes) {
      const own = box.closest("tr").dataset;
      const other = first && own.task !== first.task && (!own.fingerprint || own.fingerprint !== first.fingerprint);
      box.disabled = !box.checked && (chosen.length === 2 || other);
    }
    go.disabled = chosen.length !== 2;
    said.textContent = chosen.length === 2 ? "" : chosen.length ? "Select another run of the same task." : "Select two runs of the same task.";
  }
  for (const box of boxes) box.addEventListener("change", choose);
  choose();
})();
