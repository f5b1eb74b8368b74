"use strict";

// A click on a header sorts its table: ascending, descending, then in the paper's order again.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], order = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].textContent.trim();
  const compare = (a, b) => {
    const x = parseFloat(a.replace(/,/g, "")), y = parseFloat(b.replace(/,/g, ""));
    if (!isNaN(x) && !isNaN(y) && x !== y) return x - y;
    return a.localeCompare(b, "en", { numeric: true });
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: "none" }[head.ariaSort] || "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      const rows = [...order];
      if (next !== "none") {
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        rows.sort((a, b) => {  // empty cells come last in both directions
          const x = value(a, column), y = value(b, column);
          return !x || !y ? !x - !y : sign * compare(x, y);
        });
      }
      body.append(...rows);
    });
  });
}

// Filters hide lines and curves that do not match, and the elements that become empty.
const form = document.getElementById("filters"), output = form.querySelector("output");
const items = [...document.querySelectorAll("[data-rule]")];
const holders = [...document.querySelectorAll("main section, main article, main details, main .scroll")]
  .filter(holder => holder.querySelector("[data-rule]"));
const shown = part => part.querySelectorAll("[data-rule]:not([hidden])").length;

function filter() {
  const wanted = [...new FormData(form)].filter(([, value]) => value);
  for (const item of items) item.hidden = !wanted.every(([name, value]) => item.dataset[name] === value);
  for (const holder of holders) holder.hidden = !shown(holder);
  for (const count of document.querySelectorAll(".count"))
    count.textContent = wanted.length ? `(${shown(count.closest("details"))} of ${count.dataset.all} lines) ` : "";
  for (const link of document.querySelectorAll(".matrix a")) {
    const table = document.querySelector(link.getAttribute("href"));
    link.classList.toggle("out", table.hidden);
  }
  const rows = items.filter(item => item.localName === "tr" && item.closest("section").id !== "runs");
  const left = rows.filter(row => !row.hidden), toRun = left.filter(row => row.closest(".to-run"));
  output.textContent = wanted.length
    ? `${left.length - toRun.length} lines measured, ${toRun.length} to run, of ${rows.length} in total` : "";
}

form.hidden = false;
form.addEventListener("change", filter);
form.addEventListener("reset", () => setTimeout(filter));  // after the lists are reset to "all"
form.addEventListener("submit", event => event.preventDefault());
filter();  // some browsers keep the selection when the page is reloaded

const unfold = document.getElementById("unfold");
unfold.addEventListener("click", () => {
  const open = unfold.getAttribute("aria-pressed") !== "true";
  unfold.setAttribute("aria-pressed", open);
  unfold.textContent = open ? "fold all" : "unfold all";
  document.querySelectorAll("details").forEach(part => { part.open = open; });
});
