"use strict";
/* The facts, and the parts of the page that are tables. Nothing is written as HTML: texts of the
   program go in as text. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const AXES = DATA.grid.map(([name]) => name);
const LAYOUT_TEXTS = DATA.layouts.map((dims) =>
  dims.some((axes) => axes) ? `[${dims.map((axes) => axes || "-").join(", ")}]` : "whole");

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function bytesText(size) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) { size /= 1024; unit += 1; }
  return `${unit ? Number(size.toPrecision(3)) : size} ${units[unit]}`;
}

function secondsText(microseconds) {
  if (!microseconds) return "0";
  if (microseconds >= 1000) return `${Number((microseconds / 1000).toPrecision(3))} ms`;
  return microseconds < 0.01 ? "< 0.01 µs" : `${Number(microseconds.toPrecision(3))} µs`;
}

const count = (number) => number.toLocaleString("en");
const short = (kind) => kind.replace(/^stablehlo\./, "");

/* ---- layouts in colours ------------------------------------------------------------------------ */

function axisColour(name) {
  const index = AXES.indexOf(name.replace(/:.*/, ""));
  return index < 0 ? "var(--whole)" : `var(--a${index % 6})`;
}

function axesBackground(axes) {
  const colours = axes.split(",").map(axisColour);
  if (colours.length === 1) return colours[0];
  const width = 100 / colours.length;
  const stops = colours.map((c, i) => `${c} ${i * width}% ${(i + 1) * width}%`);
  return `linear-gradient(135deg, ${stops.join(", ")})`;
}

function dimBox(axes, dim) {
  const title = axes ? `dimension ${dim} over ${axes}` : `dimension ${dim} whole`;
  const box = make("span", { class: axes ? "dim" : "dim none", title });
  if (axes) box.style.background = axesBackground(axes);
  return box;
}

function layoutChip(number) {
  if (number < 0) {
    return make("span", { class: "layout soft", title: "a constant: made where it is read" },
      make("span", { class: "boxes" }, make("span", { class: "dim free" })), "free");
  }
  const boxes = make("span", { class: "boxes", "aria-hidden": "true" },
    ...DATA.layouts[number].map(dimBox));
  return make("span", { class: "layout" }, boxes,
    make("span", { class: "mono" }, LAYOUT_TEXTS[number]));
}

function drawLegend() {
  const legend = document.getElementById("legend");
  const entry = (box, ...text) => make("span", {}, box, ...text);
  legend.append("A box for each dimension:");
  for (const [name, size] of DATA.grid) {
    const box = make("span", { class: "swatch" });
    box.style.background = axisColour(name);
    legend.append(entry(box, "over ", make("b", {}, name), ` (${size})`));
  }
  legend.append(entry(make("span", { class: "swatch none" }), "whole"));
  legend.append(entry(make("span", { class: "swatch free" }), "free (constants)"));
}

/* ---- tables ------------------------------------------------------------------------------------ */

const NUMERIC = new Set(["count", "bytes", "time", "share", "a device", "each time"]);

function table(heads, rows) {
  const cell = (tag, content, head) => make(tag,
    { class: NUMERIC.has(head) ? "num" : "", scope: tag === "th" ? "col" : null }, content);
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": heads[0] },
    make("table", {},
      make("thead", {}, make("tr", {}, ...heads.map((head) => cell("th", head, head)))),
      make("tbody", {}, ...rows.map(({ cells, text }) => {
        const row = make("tr", {}, ...cells.map((content, i) => cell("td", content, heads[i])));
        if (text) row.dataset.text = text.toLowerCase();
        return row;
      }))));
}

function titled(id, title, ...content) {
  const section = document.getElementById(id);
  section.append(make("h2", { id: `${id}-title` }, title), ...content);
  document.getElementById("nav").append(make("a", { href: `#${id}` }, title));
  return section;
}

function figures(pairs) {
  return make("dl", { class: "figures" }, ...pairs.map(([name, value, kind]) =>
    make("div", {}, make("dt", {}, name), make("dd", { class: kind || "" }, value))));
}

function drawSummary() {
  const { objective, memory, solver } = DATA;
  const grid = DATA.grid.map(([name, size]) => `${name} ${size}`).join(" × ");
  const pairs = [["grid", grid || "one device"]];
  if (objective) {
    const what = objective.compute === null ? "communication of a step" : "a step";
    pairs.unshift([what, secondsText(objective.total * 1e6)]);
  }
  if (memory) {
    const over = memory.limit && memory.peak > memory.limit;
    pairs.push(["memory of a device", bytesText(memory.peak), over ? "over" : ""]);
    if (memory.limit) pairs.push(["limit", bytesText(memory.limit)]);
  }
  const section = titled("summary", "Plan", figures(pairs));
  section.append(make("p", { class: "soft" }, DATA.method));
  if (objective) section.append(...splitOfTime(objective));
  if (solver) section.append(make("p", { class: "soft" }, searchText(solver)));
}

function splitOfTime(objective) {
  const parts = [
    ["compute (dots, convolutions)", objective.compute],
    ["memory traffic of other ops", objective.memory],
    ["communication: reductions", objective.communication - objective.reshard],
    ["communication: resharding", objective.reshard],
  ].filter(([, seconds]) => seconds !== null);
  const stack = make("div", { class: "stack", role: "img", "aria-label": "Split of a step's time" });
  const rows = parts.map(([name, seconds], index) => {
    const share = objective.total ? seconds / objective.total : 0;
    const piece = make("span", { title: `${name}: ${secondsText(seconds * 1e6)}` });
    piece.style.cssText = `width:${100 * share}%;background:var(--t${index})`;
    stack.append(piece);
    const swatch = make("span", { class: "swatch" });
    swatch.style.background = `var(--t${index})`;
    const label = make("span", { class: "layout" }, swatch, name);
    return { cells: [label, secondsText(seconds * 1e6), `${(100 * share).toFixed(1)} %`], text: "" };
  });
  return [stack, table(["a step's time goes to", "time", "share"], rows)];
}

function searchText(solver) {
  const again = solver.reproducible ? "" : "; the clock ended the search";
  const proof = solver.proof[0].toUpperCase() + solver.proof.slice(1);
  return `${proof}: ${count(solver.nodes)} choices, ${count(solver.edges)} pairs, ` +
    `searched for ${Number(solver.seconds.toPrecision(2))} s${again}.`;
}

function drawCollectives() {
  const known = DATA.collectives.some((use) => use.seconds !== null);
  const weight = (use) => (known ? use.seconds : use.bytes);
  const sorted = [...DATA.collectives].sort((a, b) => weight(b) - weight(a));
  const rows = sorted.map((use) => {
    const where = make("details", {},
      make("summary", {}, `${use.places.length + use.more} places`),
      make("ul", { class: "places mono" }, ...use.places.map(([name, times, size]) =>
        make("li", {}, `${name}: ${count(times)} times, ${bytesText(size)}`)),
      use.more ? make("li", {}, `and ${use.more} more`) : null));
    const cells = [make("span", { class: "mono" }, use.kind), use.axes || "-", count(use.count),
      bytesText(use.bytes), bytesText(use.bytes / Math.max(1, use.count))];
    if (known) cells.push(secondsText(use.seconds * 1e6), use.places.length ? where : "");
    const places = use.places.map(([name]) => name).join(" ");
    return { cells, text: `${use.kind} ${use.axes} ${places}` };
  });
  const heads = ["collective", "over", "count", "bytes", "each time"];
  if (known) heads.push("time", "where");
  const note = rows.length ? "" : "None: no device sends anything to another.";
  titled("collectives", "Collectives", rows.length
    ? make("p", { class: "soft" }, "Ring bytes that a device sends in one step.") : note,
  ...(rows.length ? [table(heads, rows)] : []));
}

function valueRows(values) {
  return values.map(([names, kind, type, layout, size]) => {
    const label = names.length === 1 ? make("span", { class: "mono" }, names[0])
      : make("details", {},
        make("summary", {}, make("span", { class: "mono" }, names[0]),
          make("span", { class: "tag times" }, `×${names.length}`)),
        make("ul", { class: "places mono" }, ...names.map((name) => make("li", {}, name))));
    const cells = [label, kind, make("span", { class: "mono" }, type), layoutChip(layout)];
    if (size !== null) cells.push(bytesText(size));
    return { cells, text: `${names.join(" ")} ${kind} ${type} ${LAYOUT_TEXTS[layout]}` };
  });
}

function drawArguments() {
  const known = DATA.arguments.some((row) => row[4] !== null);
  const heads = (what) => [what, "kind", "type", "sharding", ...(known ? ["a device"] : [])];
  const section = titled("arguments", "Arguments and results");
  section.append(table(heads("argument"), valueRows(DATA.arguments)));
  if (DATA.results.length) {
    section.append(make("details", {}, make("summary", {}, "Results"),
      table(heads("result"), valueRows(DATA.results))));
  }
}

/* Sections in which nothing matches are left out, and what is no list. */
function filterTables(words) {
  let all = 0;
  for (const id of ["collectives", "arguments"]) {
    let shown = 0;
    for (const row of document.querySelectorAll(`#${id} tr[data-text]`)) {
      row.hidden = !words.every((word) => row.dataset.text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById(id).hidden = words.length > 0 && !shown;
    all += shown;
  }
  document.getElementById("summary").hidden = words.length > 0;
  document.getElementById("memory").hidden = words.length > 0 || !DATA.memory;
  return all;
}
