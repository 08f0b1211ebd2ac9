// Numbers and elements. Text only ever enters the page through textContent, so it stays text.

const data = JSON.parse(document.getElementById("data").textContent);
const trialByNumber = new Map(data.trials.map((trial) => [trial.n, trial]));
const HALF_WIDTH = 1.96; // standard errors

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") node.className = value;
    else node.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}

function numberText(value) {
  const size = Math.abs(value);
  if (size >= 1000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  if (size && size < 1e-4) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

function decimalsFor(half) {
  return Math.min(9, Math.max(0, 1 - Math.floor(Math.log10(half))));
}

// [value, stderr, n] as "0.623 ± 0.059".
function intervalText([value, stderr]) {
  if (stderr === null) return numberText(value);
  const half = HALF_WIDTH * stderr;
  if (!(half > 0)) return `${numberText(value)} ± 0`;
  const decimals = decimalsFor(half);
  return `${value.toFixed(decimals)} ± ${half.toFixed(decimals)}`;
}

function signedText(value, stderr) {
  const sign = value > 0 ? "+" : value < 0 ? "-" : "";
  return sign + intervalText([Math.abs(value), stderr]);
}

function durationText(seconds) {
  if (seconds < 99.5) return `${seconds >= 10 ? seconds.toFixed(0) : seconds.toFixed(1)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

function countText(n) {
  return n.toLocaleString("en");
}

// Score minus the one before it, as {value, stderr, verdict}; null where one is missing.
function change(score, before, direction) {
  if (!Array.isArray(score) || !Array.isArray(before)) return null;
  const value = score[0] - before[0];
  const known = score[1] !== null && before[1] !== null;
  const stderr = known ? Math.hypot(score[1], before[1]) : null;
  let verdict = "";
  if (known && Math.abs(value) > HALF_WIDTH * stderr) {
    verdict = value > 0 === (direction === "maximise") ? "better" : "worse";
  }
  return { value, stderr, verdict };
}

function arrow(direction) {
  return direction === "maximise" ? "↑" : "↓";
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "panel", "ink", "muted", "rule", "front", "base", "dominated", "better", "worse"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

// Plotly reads a subset of HTML in its texts; entities keep names and labels as they are.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function baseLayout(extra) {
  const colour = colours();
  const axis = { gridcolor: colour.rule, zerolinecolor: colour.rule, linecolor: colour.rule, automargin: true };
  return {
    paper_bgcolor: colour.paper,
    plot_bgcolor: colour.paper,
    font: { family: "system-ui, sans-serif", size: 13, color: colour.ink },
    margin: { l: 10, r: 16, t: 34, b: 10 },
    showlegend: false,
    hoverlabel: { align: "left", bgcolor: colour.panel, bordercolor: colour.rule, font: { color: colour.ink } },
    ...extra,
    xaxis: { ...axis, ...(extra.xaxis || {}) },
    yaxis: { ...axis, ...(extra.yaxis || {}) },
  };
}

const CHART_OPTIONS = {
  responsive: true,
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};
