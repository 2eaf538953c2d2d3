/* The program as layers that open when asked for, and the search. */

const PROGRAM = DATA.program;
const MANY = 400; /* rows that are drawn at once */

const isRow = (item) => Array.isArray(item);
const view = { words: [], open: false };

/* Sums of a layer, copies apart: ops, and bytes of its collectives. */
function measure(group) {
  let ops = 0, bytes = 0;
  for (const item of group.i) {
    if (isRow(item)) {
      ops += item[6];
      bytes += item[6] * item[7].reduce((sum, [, size]) => sum + size, 0);
    } else {
      measure(item);
      ops += item.ops * item.n.length;
      bytes += item.bytes * item.n.length;
    }
  }
  group.ops = ops;
  group.bytes = bytes;
}

/* ---- search ------------------------------------------------------------------------------------ */

function rowText(row) {
  const [kind, type, layout, place, strategy, , , moves] = row;
  const moved = moves.map(([number]) => {
    const use = DATA.collectives[number];
    return `${use.kind} ${use.axes}`;
  });
  return [PROGRAM.kinds[kind], PROGRAM.types[type], layout < 0 ? "free" : LAYOUT_TEXTS[layout],
    PROGRAM.places[place], PROGRAM.strategies[strategy] || "", ...moved].join(" ").toLowerCase();
}

/* Marks what matches: of a layer how many ops, all its copies. */
function match(group, words, path) {
  group.hits = 0;
  for (const item of group.i) {
    if (isRow(item)) {
      const text = `${path} ${rowText(item)}`;
      item.hit = words.every((word) => text.includes(word));
      group.hits += item.hit ? item[6] : 0;
    } else {
      match(item, words, `${path}/${item.n.join(" ").toLowerCase()}`);
      group.hits += item.hits * item.n.length;
    }
  }
}

function search(text) {
  view.words = text.toLowerCase().split(/\s+/).filter((word) => word);
  const shown = filterTables(view.words);
  const found = document.getElementById("found");
  if (!PROGRAM) { found.textContent = view.words.length ? `${count(shown)} rows` : ""; return; }
  match(PROGRAM.tree, view.words, "");
  const { hits, ops } = PROGRAM.tree;
  found.textContent = view.words.length ? `${count(hits)} of ${count(ops)} ops` : `${count(ops)} ops`;
  view.open = view.words.length > 0;
  drawTree();
}

function marked(text) {
  const words = view.words;
  const at = words.map((word) => [text.toLowerCase().indexOf(word), word.length])
    .filter(([start]) => start >= 0).sort((a, b) => a[0] - b[0])[0];
  if (!at) return [text];
  const [start, length] = at;
  return [text.slice(0, start), make("mark", {}, text.slice(start, start + length)),
    text.slice(start + length)];
}

/* ---- layers ------------------------------------------------------------------------------------ */

function phase(name) {
  if (name.startsWith("transpose(")) return "backward";
  return name.startsWith("jvp(") ? "forward" : "";
}

function timeCell(microseconds) {
  const whole = DATA.objective ? DATA.objective.total * 1e6 : 0;
  if (!whole || !microseconds) return make("span", { class: "time" });
  const fill = make("span", {});
  fill.style.width = `${Math.min(100, 100 * microseconds / whole)}%`;
  return make("span", { class: "time", title: `${(100 * microseconds / whole).toFixed(2)} % of a step` },
    make("span", { class: "meter", "aria-hidden": "true" }, fill),
    make("span", { class: "figure" }, secondsText(microseconds)));
}

function groupName(group) {
  const [first] = group.n;
  const last = group.n[group.n.length - 1];
  return group.n.length > 1 ? `${first} … ${last}` : first;
}

function groupElement(group, depth) {
  const copies = group.n.length, tag = phase(group.n[0]);
  const head = make("summary", {},
    make("span", { class: "name" }, ...marked(groupName(group))),
    copies > 1 ? make("span", { class: "tag times", title: "layers that are alike" }, `×${copies}`) : null,
    tag ? make("span", { class: "tag" }, tag) : null,
    make("span", { class: "soft" }, `${count(group.ops * copies)} ops`),
    group.bytes ? make("span", { class: "tag move" }, `sends ${bytesText(group.bytes * copies)}`) : null,
    make("span", { class: "grow" }), timeCell(group.s));
  const inside = make("div", { class: "inside" });
  const element = make("details", { class: "layer" }, head, inside);
  const fill = () => { if (element.open && !inside.childElementCount) fillGroup(inside, group, depth); };
  element.addEventListener("toggle", fill);
  const share = DATA.objective ? group.s / (DATA.objective.total * 1e6) : 0;
  const small = view.words.length ? group.hits <= MANY : depth < 2 && share > 0.15;
  if (view.all || small && (view.open || !view.words.length)) { element.open = true; fill(); }
  return element;
}

function fillGroup(inside, group, depth) {
  if (group.n.length > 1 && !group.single) {
    const button = make("button", { type: "button", class: "unfold", onclick: () => {
      inside.replaceChildren(...group.n.map((name) => groupElement(single(group, name), depth + 1)));
    } }, `Show the ${group.n.length} one by one`);
    inside.append(make("p", { class: "soft" }, `Each of the ${group.n.length} holds: `, button));
  }
  fillItems(inside, group.i, depth, 0);
}

/* One of the layers that are told together. */
function single(group, name) {
  return { ...group, n: [name], s: group.s / group.n.length, single: true };
}

function fillItems(inside, items, depth, start) {
  const wanted = view.words.length
    ? items.filter((item) => (isRow(item) ? item.hit : item.hits)) : items;
  const part = wanted.slice(start, start + MANY);
  inside.append(...part.map((item) => (isRow(item) ? rowElement(item) : groupElement(item, depth + 1))));
  const rest = wanted.length - start - part.length;
  if (rest > 0) {
    const more = make("button", { type: "button", onclick: () => {
      more.remove();
      fillItems(inside, items, depth, start + MANY);
    } }, `Show ${count(Math.min(rest, MANY))} more of ${count(rest)}`);
    inside.append(more);
  }
}

function rowElement(row) {
  const [kind, type, layout, place, strategy, microseconds, times, moves] = row;
  const name = make("span", { class: "op mono" }, ...marked(short(PROGRAM.kinds[kind])),
    times > 1 ? make("span", { class: "tag times" }, `×${times}`) : null);
  const where = PROGRAM.places[place];
  const typeText = PROGRAM.types[type];
  const details = make("span", { class: "type mono", title: typeText },
    ...marked(typeText), where ? "  " : "", ...marked(where));
  const tags = moves.map(([number, size]) => {
    const use = DATA.collectives[number];
    return make("span", { class: "tag move" }, `${use.kind} over ${use.axes}: ${bytesText(size)}`);
  });
  if (strategy >= 0) {
    tags.unshift(make("span", { class: "tag mono", title: "grid axes of each factor of its rule" },
      `factors ${PROGRAM.strategies[strategy]}`));
  }
  return make("div", { class: "row" }, layoutChip(layout), name, details, timeCell(microseconds),
    make("span", { class: "moves" }, ...tags));
}

function drawTree() {
  const tree = document.getElementById("tree");
  tree.replaceChildren();
  fillItems(tree, PROGRAM.tree.i, 0, 0);
  if (!tree.childElementCount) tree.append(make("p", { class: "soft" }, "No op matches."));
}

function drawProgram() {
  if (!PROGRAM) { document.getElementById("program").hidden = true; return; }
  measure(PROGRAM.tree);
  const folding = (all, text, id) => make("button", { type: "button", id, onclick: () => {
    view.all = all;
    view.open = view.open && all;
    drawTree();
    if (!all) for (const one of document.querySelectorAll("#tree details")) one.open = false;
    view.all = false;
  } }, text);
  const section = titled("program", "Program");
  section.prepend(make("div", { class: "tools" },
    folding(true, "Unfold all", "unfold-all"), folding(false, "Fold all", "fold-all")));
  section.append(make("div", { class: "tree", id: "tree" }));
}

function start() {
  document.getElementById("title").textContent = DATA.title;
  drawLegend();
  drawSummary();
  drawMemory();
  drawCollectives();
  drawArguments();
  drawProgram();
  const box = document.getElementById("search");
  let waiting = 0;
  box.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => search(box.value), 80);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== box) { box.focus(); event.preventDefault(); }
    if (event.key === "Escape" && document.activeElement === box) { box.value = ""; search(""); }
  });
  search("");
  document.body.dataset.ready = "true";
}

start();
