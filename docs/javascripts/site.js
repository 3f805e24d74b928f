// Figures open in full size, and tables of results sort by a column: at a click, or by the keys Enter and Space.

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
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault(); // Space would scroll the page
    openFigure(image);
  });
}

// The number at the start of a text, such as 0.061 of "0.061 ± 0.004", or NaN. Commas and narrow spaces may separate
// its thousands.
function leadingNumber(text) {
  return parseFloat(text.replace("−", "-").replace(/(\d)[,\u202f](?=\d{3}(?!\d))/g, "$1"));
}

// The number at the start of a cell, or its text.
function sortKey(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = leadingNumber(text);
  return Number.isNaN(number) ? text : number;
}

// The order of two keys, upwards or downwards. Texts such as "not run" come after numbers in both.
function compare(a, b, up) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return (typeof a === "number" ? a - b : a.localeCompare(b)) * (up ? 1 : -1);
}

function hasNumbers(table) {
  const cells = [...table.tBodies[0].rows].flatMap((row) => [...row.cells].slice(1));
  return cells.filter((cell) => !Number.isNaN(leadingNumber(cell.textContent))).length > cells.length / 3;
}

// Give a heading a button with its content. A link stays outside, because a button cannot contain it.
function addSortButton(heading) {
  const button = document.createElement("button");
  button.type = "button";
  if (heading.querySelector("a")) {
    button.ariaLabel = `Sort by ${heading.textContent.trim()}`;
    heading.append(" ");
  } else {
    button.append(...heading.childNodes);
  }
  heading.append(button);
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
    addSortButton(heading);
    // A press of the button is a click on the heading too.
    heading.addEventListener("click", (event) => {
      if (event.target.closest("a")) return;
      const up = heading.ariaSort !== "ascending";
      headings.forEach((other) => other.ariaSort && (other.ariaSort = "none"));
      heading.ariaSort = up ? "ascending" : "descending";
      body.append(...[...body.rows].sort((a, b) => compare(sortKey(a, column), sortKey(b, column), up)));
    });
  });
}
