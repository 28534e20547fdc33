// Sort a table by the column whose head is pressed, and by it in reverse when pressed again. Cells that know their
// number go by it and come before text; empty ones come last either way. Equals keep their order, so that pressing two
// heads in turn sorts by both. In a grouped table a body is a line with what unfolds below it.
const read = (row, column) => {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
};
const rank = value => typeof value === "number" ? 0 : value === "" ? 2 : 1;
const compared = (a, b) => typeof a === "number" ? (a > b) - (a < b) : a.localeCompare(b, "en", { numeric: true });
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentElement, table = head.closest("table"), isGrouped = table.classList.contains("grouped");
  const parent = isGrouped ? table : table.tBodies[0], parts = isGrouped ? table.tBodies : parent.rows;
  const down = head.getAttribute("aria-sort") === "ascending";
  const order = (a, b) => rank(a) - rank(b) || (rank(a) < 2 && compared(a, b) * (down ? -1 : 1));
  for (const each of head.parentElement.cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keyed = [...parts].map(part => [read(isGrouped ? part.rows[0] : part, head.cellIndex), part]);
  parent.append(...keyed.sort((a, b) => order(a[0], b[0])).map(pair => pair[1]));
};
