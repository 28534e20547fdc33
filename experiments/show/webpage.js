// Sort a table by the column whose head is pressed, and by it in reverse when pressed again. Cells that know their
// number go by it and come before text; empty ones come last either way. Equals keep their order, so that pressing two
// heads in turn sorts by both.
const read = (row, column) => {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
};
const rank = value => typeof value === "number" ? 0 : value === "" ? 2 : 1;
const compared = (a, b) => typeof a === "number" ? (a > b) - (a < b) : a.localeCompare(b, "en", { numeric: true });
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentElement, body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  const order = (a, b) => rank(a) - rank(b) || (rank(a) < 2 && compared(a, b) * (down ? -1 : 1));
  for (const each of head.parentElement.cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keyed = [...body.rows].map(row => [read(row, head.cellIndex), row]);
  body.append(...keyed.sort((a, b) => order(a[0], b[0])).map(pair => pair[1]));
};
