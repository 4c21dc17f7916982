"use strict";
// Tables sort by their headers: numbers as numbers, what has no value last in either direction.
for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), row = head.parentElement, table = head.closest("table");
    const column = [...row.children].indexOf(head), numeric = head.classList.contains("number");
    const down = head.getAttribute("aria-sort") === (numeric ? "descending" : "ascending");
    const order = (numeric ? !down : down) ? "descending" : "ascending";
    for (const other of row.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", order);
    const key = (line) => line.children[column].dataset.value;
    const body = table.tBodies[0], sign = order === "ascending" ? 1 : -1;
    const lines = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * (numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
    });
    body.append(...lines);
  });
}
// A number leads to its runs: all of them are shown, the first is gone to. A name opens its spec.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-runs]");
  if (!link) return;
  for (const line of document.querySelectorAll("tr.chosen")) line.classList.remove("chosen");
  for (const run of link.dataset.runs.split(" ")) {
    document.getElementById("run-" + run)?.classList.add("chosen");
  }
});
const open = () => {
  const aim = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (aim instanceof HTMLDetailsElement) aim.open = true;
};
addEventListener("hashchange", open);
open();
