"use strict";
const {cells, artifacts} = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement, dialog = document.getElementById("lineage"), theme = document.getElementById("theme");

function el(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null));
  return node;
}

function facts(pairs) {
  const list = el("dl", {className: "facts"});
  for (const [name, value] of pairs) if (value !== undefined && value !== "") list.append(el("dt", {}, name), el("dd", {}, value));
  return list;
}

/* From a table down to the reviews: each artifact before what it was made from. */
function chain(starts) {
  const seen = new Set(), order = [];
  const visit = (i) => {
    if (typeof i !== "number" || seen.has(i)) return;
    seen.add(i);
    artifacts[i].inputs.forEach(visit);
    order.unshift(i);
  };
  const [table, ...sources] = starts;
  seen.add(table);
  sources.forEach(visit);
  return [table, ...order];
}

function described(i) {
  const {path, stage, spec, code, sha256, inputs, facts: run} = artifacts[i];
  const made = run.started ? `${run.started.replace("T", " ").replace("Z", " UTC")}, ${run.seconds} s, up to ${run.peak_memory_mib} MiB` : "no run record";
  const where = run.host ? `${run.host}: ${run.processor}, ${run.device}, ${run.precision}, ${run.threads} thread${run.threads > 1 ? "s" : ""}` : "";
  const commit = run.commit ? run.commit + (run.dirty ? ", with uncommitted changes" : "") : "";
  return el("li", {}, el("details", {},
    el("summary", {}, el("b", {}, stage.replaceAll("_", " ")), el("code", {}, path.replace(/\.?\/?manifest\.json$/, "")), el("span", {className: "meta"}, sha256.slice(0, 12))),
    facts([
      ["Settings", el("pre", {}, JSON.stringify(spec, null, 1))], ["Code", el("code", {}, code)], ["SHA-256", el("code", {}, sha256)],
      ["Made", made], ["Where", where], ["Commit", commit],
      ["From", el("pre", {}, inputs.map((input) => (typeof input === "number" ? artifacts[input].path : input)).join("\n"))],
    ])));
}

function recordTable(records) {
  const names = [...new Set(records.flatMap(Object.keys))].filter((name) => records.some((record) => record[name] !== "" && record[name] !== undefined));
  if (records.length === 1) return facts(names.map((name) => [name.replaceAll("_", " "), records[0][name]]));
  return el("div", {className: "scroll", tabIndex: 0}, el("table", {},
    el("thead", {}, el("tr", {}, ...names.map((name) => el("th", {scope: "col"}, name)))),
    el("tbody", {}, ...records.map((record) => el("tr", {}, ...names.map((name) => el("td", {}, record[name] ?? "")))))));
}

function texts({experiment, sample, domain}) {
  const found = [];
  for (const item of document.querySelectorAll(`#samples-${experiment} .item`)) {
    const card = item.querySelector(`[data-sample~="${sample}"]`);
    if (found.length < 3 && card && (!domain || item.dataset.domain === domain)) {
      const copy = card.cloneNode(true);
      copy.querySelector("p .meta").replaceWith(el("b", {}, item.querySelector(".prompt").textContent));
      found.push(copy);
    }
  }
  return found;
}

function open(cell) {
  document.getElementById("lineage-title").textContent = cell.title;
  const body = document.getElementById("lineage-body"), path = chain(cell.artifacts);
  const behind = cell.sample ? texts(cell) : [];
  body.replaceChildren(
    ...(cell.value ? [el("p", {className: "value"}, cell.value)] : []),
    ...(cell.published?.length ? [el("p", {className: "small"}, `Published: ${cell.published.join("; ")}`)] : []),
    ...(cell.statistic ? [el("p", {className: "small"}, `Statistic: ${cell.statistic}`)] : []),
    ...(cell.records.length ? [el("h3", {}, "Every digit"), recordTable(cell.records)] : []),
    ...(behind.length ? [el("h3", {}, "Texts behind it"), el("div", {className: "cards"}, ...behind)] : []),
    el("h3", {}, `Chain of ${path.length} artifacts, down to the reviews`),
    el("ol", {className: "chain"}, ...path.map(described)),
  );
  dialog.showModal();
  dialog.scrollTop = 0;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-cell]");
  if (button) open(cells[button.dataset.cell]);
  else if (event.target === dialog || event.target.id === "close") dialog.close();
});

/* One stop of the tab key per table; arrow keys move between its numbers. */
for (const table of document.querySelectorAll("table.cells")) {
  const rows = [...table.rows].map((row) => [...row.querySelectorAll(".cell")]).filter((row) => row.length);
  rows.flat().forEach((button, i) => { button.tabIndex = i ? -1 : 0; });
  table.addEventListener("keydown", (event) => {
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    const y = rows.findIndex((row) => row.includes(event.target));
    if (!step || y < 0) return;
    const row = rows[y + step[0]], x = rows[y].indexOf(event.target) + step[1];
    const next = row?.[step[0] ? Math.min(x, row.length - 1) : x];
    event.preventDefault();
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

/* A link to a fold, or into one, opens it; so does the printer, for what belongs on paper. */
function unfold() {
  let node = location.hash.length > 1 ? document.getElementById(decodeURIComponent(location.hash.slice(1))) : null;
  for (const target = node; node; node = node.parentElement) {
    if (node.matches("details")) { node.open = true; target.scrollIntoView(); }
  }
}
addEventListener("hashchange", unfold);
document.querySelector("nav").addEventListener("click", (event) => { if (event.target.hash === location.hash) unfold(); });
unfold();
const closed = () => document.querySelectorAll("details.paper:not([open])");
let printed = [];
addEventListener("beforeprint", () => { printed = [...closed()]; printed.forEach((fold) => { fold.open = true; }); });
addEventListener("afterprint", () => printed.forEach((fold) => { fold.open = false; }));

for (const browser of document.querySelectorAll(".browser")) {
  const items = [...browser.querySelectorAll(".item")], controls = browser.querySelector(".controls");
  const select = controls.querySelector("select");
  const show = (i, aloud = true) => {
    select.selectedIndex = (i + items.length) % items.length;
    items.forEach((item, k) => { item.hidden = k !== select.selectedIndex; });
    if (aloud) document.getElementById("said").textContent = items[select.selectedIndex].querySelector("p").textContent;
  };
  controls.hidden = false;
  select.addEventListener("change", () => show(select.selectedIndex));
  controls.querySelectorAll("button").forEach((button) => button.addEventListener("click", () => show(select.selectedIndex + Number(button.value))));
  show(0, false);
}

const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const press = () => theme.setAttribute("aria-pressed", isDark());
theme.hidden = false;
press();
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a page without storage */ }
  press();
});
