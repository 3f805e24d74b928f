// Figures open in full size at a click or Enter, and tables of results sort at a click on a heading.

function openFigure(image) {
  const dialog = document.createElement("dialog");
  dialog.className = "figure";
  dialog.ariaLabel = image.alt;
  const copy = new Image();
  copy.src = image.src;
  copy.alt = image.alt;
  dialog.append(copy);
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

for (const image of document.querySelectorAll(".md-content img")) {
  if (image.closest("a")) continue;
  image.tabIndex = 0;
  image.role = "button";
  image.addEventListener("click", () => openFigure(image));
  image.addEventListener("keydown", (event) => {
    if (event.key === "Enter") openFigure(image);
  });
}

// The number at the start of a cell, such as 0.061 of "0.061 ± 0.004", or its text.
function sortKey(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace("−", "-"));
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
  return typeof a === "number" ? -1 : 1; // texts such as "-" come last
}

function hasNumbers(table) {
  const cells = [...table.tBodies[0].rows].flatMap((row) => [...row.cells].slice(1));
  return cells.filter((cell) => !Number.isNaN(parseFloat(cell.textContent))).length > cells.length / 3;
}

for (const table of document.querySelectorAll(".md-content table:not(.highlighttable)")) {
  const headings = [...(table.tHead?.rows[0]?.cells ?? [])];
  const body = table.tBodies[0];
  const isNamed = headings.some((heading) => heading.textContent.trim());
  if (!isNamed || body.rows.length < 4 || !hasNumbers(table)) continue;
  table.dataset.numbers = "";
  headings.forEach((heading, column) => {
    if (!heading.textContent.trim()) return;
    heading.ariaSort = "none";
    heading.tabIndex = 0;
    const sort = () => {
      const up = heading.ariaSort !== "ascending";
      headings.forEach((other) => other.ariaSort && (other.ariaSort = "none"));
      heading.ariaSort = up ? "ascending" : "descending";
      const rows = [...body.rows].sort((a, b) => compare(sortKey(a, column), sortKey(b, column)) * (up ? 1 : -1));
      body.append(...rows);
    };
    heading.addEventListener("click", (event) => {
      if (!event.target.closest("a")) sort();
    });
    heading.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target === heading) sort();
    });
  });
}
