/* Memory over time. */

const CHART = { width: 640, height: 240, left: 58, right: 8, top: 14, bottom: 22 };
const SVG = "http://www.w3.org/2000/svg";

function shape(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function niceStep(top) {
  const unit = 2 ** Math.floor(Math.log2(Math.max(1, top / 4)));
  return top / unit > 6 ? 2 * unit : unit;
}

function drawMemory() {
  const memory = DATA.memory;
  if (!memory) { document.getElementById("memory").hidden = true; return; }
  const held = memory.arguments + memory.results;
  const title = memory.points.length ? "Memory of a device over a step" : "Memory of a device";
  const section = titled("memory", title);
  if (memory.points.length) {
    const figure = make("figure", {});
    section.append(figure);
    const reading = make("p", { id: "reading", class: "soft", "aria-live": "polite" });
    let zoomed = !memory.limit || memory.limit > 1.6 * memory.peak;
    const draw = () => figure.replaceChildren(chart(memory, held, zoomed, reading));
    draw();
    section.append(reading);
    if (memory.limit) {
      const text = () => (zoomed ? "Scale to the limit" : "Scale to what is used");
      const button = make("button", { type: "button", onclick: () => {
        zoomed = !zoomed; draw(); button.textContent = text();
      } }, text());
      section.prepend(make("div", { class: "tools" }, button));
    }
  }
  section.append(memoryTable(memory));
}

function memoryTable(memory) {
  const rows = [
    { cells: ["arguments", "", bytesText(memory.arguments)], text: "" },
    { cells: ["results beside donated arguments", "", bytesText(memory.results)], text: "" },
    ...(memory.largest ? [] : [
      { cells: ["temporaries", "", bytesText(memory.temporaries)], text: "" }]),
    ...(memory.largest || []).map(([name, times, size]) => ({
      cells: [make("span", { class: "mono" }, name), count(times), bytesText(size)], text: "" })),
  ];
  return table(["in use where most is", "count", "bytes"], rows);
}

function chart(memory, held, zoomed, reading) {
  const { width, height, left, right, top, bottom } = CHART;
  const most = zoomed ? 1.08 * memory.peak : 1.06 * Math.max(memory.peak, memory.limit);
  const x = (time) => left + (width - left - right) * (time / Math.max(1, memory.end - 1));
  const y = (size) => height - bottom - (height - top - bottom) * (size / Math.max(1, most));
  const label = `Memory: ${bytesText(memory.peak)} at most` +
    (memory.limit ? `, limit ${bytesText(memory.limit)}` : "");
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: "0",
    "aria-label": `${label}. Arrow keys move through the step.`, id: "chart" });
  const step = niceStep(most);
  for (let size = 0; size <= most; size += step) {
    svg.append(shape("line", { class: "gridline", x1: left, x2: width - right, y1: y(size), y2: y(size) }),
      shape("text", { x: left - 6, y: y(size) + 4, "text-anchor": "end" }, bytesText(size)));
  }
  svg.append(shape("rect", { class: "held", x: left, width: width - left - right,
    y: y(held), height: y(0) - y(held) }));
  const line = memory.points.map(([time, size]) => `${x(time).toFixed(1)},${y(held + size).toFixed(1)}`);
  svg.append(shape("path", { class: "used",
    d: `M${left},${y(held)}L${line.join("L")}L${width - right},${y(held)}Z` }));
  svg.append(shape("text", { x: left + 6, y: Math.min(y(0) - 5, y(held) + 13) },
    "arguments and results"));
  if (memory.limit) drawLimit(svg, memory.limit, most, y);
  svg.append(shape("text", { x: left, y: height - 6 }, "start of the step"),
    shape("text", { x: width - right, y: height - 6, "text-anchor": "end" }, "end"));
  follow(svg, memory, held, x, y, reading);
  return svg;
}

function drawLimit(svg, limit, most, y) {
  const { width, left, right, top } = CHART;
  const text = `limit ${bytesText(limit)}`;
  const inside = limit <= most;
  if (inside) {
    svg.append(shape("line", { class: "limit", x1: left, x2: width - right, y1: y(limit), y2: y(limit) }));
  }
  svg.append(shape("text", { class: "limit-text", x: width - right, "text-anchor": "end",
    y: inside ? y(limit) - 4 : top - 3 }, inside ? text : `${text} (far above)`));
}

/* The cursor, by pointer and by arrow keys. */
function follow(svg, memory, held, x, y, reading) {
  const points = memory.points;
  const cursor = shape("line", { class: "cursor", y1: CHART.top, y2: y(0) });
  const dot = shape("circle", { class: "cursor-dot", r: 4 });
  svg.append(cursor, dot);
  let at = points.reduce((best, point, i) => (point[1] > points[best][1] ? i : best), 0);
  const show = (index) => {
    at = Math.max(0, Math.min(points.length - 1, index));
    const [time, size, label] = points[at];
    for (const name of ["x1", "x2"]) cursor.setAttribute(name, x(time));
    dot.setAttribute("cx", x(time));
    dot.setAttribute("cy", y(held + size));
    const where = memory.labels[label] ? ` at ${memory.labels[label]}` : "";
    const percent = (100 * time / Math.max(1, memory.end - 1)).toFixed(0);
    reading.textContent = `${bytesText(held + size)} in use (${bytesText(size)} of temporaries), ` +
      `${percent} % into the program${where}`;
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const wanted = (event.clientX - box.left) / box.width * CHART.width;
    let nearest = 0;
    points.forEach(([time], i) => {
      if (Math.abs(x(time) - wanted) < Math.abs(x(points[nearest][0]) - wanted)) nearest = i;
    });
    show(nearest);
  });
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -50, PageDown: 50 }[event.key];
    if (by) { show(at + by); event.preventDefault(); }
  });
  show(at);
}
