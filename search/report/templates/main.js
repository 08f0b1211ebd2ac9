// Sorting, addresses, the progress chart, and redrawing when colours change.

const FIRST_ROWS = 15;

function sortTable(grid, column, button) {
  const heading = button.closest("th");
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  grid.querySelectorAll("th[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const key = (row) => {
    const text = row.cells[column].dataset.sort;
    if (text === undefined) return null;
    return heading.classList.contains("number") ? Number(text) : text;
  };
  const rows = [...grid.tBodies[0].rows].map((row) => [key(row), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // missing last, either way
    return (a < b ? -1 : a > b ? 1 : 0) * (ascending ? 1 : -1);
  });
  grid.tBodies[0].append(...rows.map(([, row]) => row));
  showRows(grid);
}

let showsAll = false;

function showRows(grid) {
  const n = showsAll ? Infinity : FIRST_ROWS;
  [...grid.tBodies[0].rows].forEach((row, at) => { row.hidden = at >= n; });
}

function startTable() {
  const grid = document.getElementById("trial-table");
  if (!grid) return;
  grid.querySelectorAll("thead th").forEach((heading, column) => {
    const button = heading.querySelector("button");
    button.addEventListener("click", () => sortTable(grid, column, button));
  });
  const more = document.getElementById("show-all");
  more.hidden = grid.tBodies[0].rows.length <= FIRST_ROWS;
  more.addEventListener("click", () => {
    showsAll = true;
    more.hidden = true;
    showRows(grid);
  });
  showRows(grid);
}

function drawProgress() {
  const chart = document.getElementById("progress-chart");
  if (!chart) return;
  const bySeconds = document.getElementById("progress-axis").value === "seconds";
  const colour = colours();
  const unit = bySeconds ? { divide: 60, title: "compute time in trials (minutes)" } : { divide: 1, title: "finished trials" };
  const points = data.hypervolume.map(([n, seconds, value]) => [(bySeconds ? seconds : n) / unit.divide, value, n]);
  const line = {
    type: "scatter",
    mode: points.length > 200 ? "lines" : "lines+markers",
    x: points.map((point) => point[0]),
    y: points.map((point) => point[1]),
    customdata: points.map((point) => point[2]),
    line: { shape: "hv", color: colour.front, width: 2 },
    marker: { size: 5 },
    hovertemplate: "after %{customdata} finished trials: %{y:.4g}<extra></extra>",
  };
  const layout = baseLayout({
    xaxis: { title: { text: unit.title }, rangemode: "tozero" },
    yaxis: { title: { text: "hypervolume" }, rangemode: "tozero" },
  });
  charts().react(chart, [line], layout, CHART_OPTIONS);
}

function trialOfAddress() {
  const match = /^#trial-(\d+)$/.exec(location.hash);
  return match ? trialByNumber.get(Number(match[1])) : undefined;
}

function openTrial(number) {
  if (location.hash === `#trial-${number}`) followAddress();
  else location.hash = `trial-${number}`;
}

function followAddress() {
  const trial = trialOfAddress();
  if (!trial) return;
  showTrial(trial);
  const section = document.getElementById("detail");
  section.scrollIntoView();
  section.focus({ preventScroll: true });
}

function startDetail() {
  const select = document.getElementById("trial-select");
  const marked = (trial) => (trial.n === data.knee ? " (knee)" : frontSet.has(trial.n) ? " (front)" : "");
  const front = data.front.map((number) => trialByNumber.get(number));
  const others = data.trials.filter((trial) => !frontSet.has(trial.n));
  for (const trial of [...front, ...others]) {
    select.append(element("option", { value: trial.n }, `${trial.n}: ${trial.order}${marked(trial)}`));
  }
  select.addEventListener("change", () => openTrial(Number(select.value)));
  window.addEventListener("hashchange", followAddress);
  const gaining = front.find((trial) => trial.stages.length);
  const first = trialByNumber.get(data.recommended) || trialByNumber.get(data.knee) || gaining || data.trials.find((trial) => trial.stages.length) || data.trials[0];
  if (trialOfAddress()) followAddress();
  else if (first) whenNear(document.getElementById("detail-body"), () => showTrial(first));
}

function redraw() {
  if (isDrawn(document.getElementById("front-chart"))) drawFront();
  if (isDrawn(document.getElementById("progress-chart"))) drawProgress();
  drawnPanels.forEach((draw) => draw());
}

startFront();
startTable();
startDetail();
startGenerations();
const progressChart = document.getElementById("progress-chart");
if (progressChart) whenNear(progressChart, drawProgress);
const progressAxis = document.getElementById("progress-axis");
if (progressAxis) progressAxis.addEventListener("change", drawProgress);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
matchMedia("print").addEventListener("change", redraw);
drawNear();
