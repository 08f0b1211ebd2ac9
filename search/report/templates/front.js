// The front chart: any two measures against each other, for the eye, the pointer and the keyboard.

const MAX_BARS = 60; // above it, marks would vanish behind their error bars; hovering still tells intervals
const frontSet = new Set(data.front);
let chartOrder = []; // trial numbers in the order the arrow keys visit them
let cursor = -1;

function lastScores(trial) {
  return trial.state === "COMPLETE" && trial.boundaries.length ? trial.boundaries[trial.boundaries.length - 1].scores : [];
}

function axisChoices() {
  const names = data.objectives.map((objective) => objective.name);
  const directions = new Map(data.objectives.map((objective) => [objective.name, objective.direction]));
  const fromSuite = data.scores.map((info, index) => ({
    ...info,
    direction: directions.get(info.name) || info.direction,
    group: names.includes(info.name) ? "Objectives" : "Other scores",
    of: (trial) => lastScores(trial)[index],
  }));
  fromSuite.sort((a, b) => (names.indexOf(a.name) + 1 || 99) - (names.indexOf(b.name) + 1 || 99));
  const fromHoldout = data.holdout.map((info, index) => ({
    ...info,
    group: "Holdout",
    of: (trial) => (trial.state === "COMPLETE" ? trial.holdout[index] : null),
  }));
  const cost = [
    { name: "tokens trained", unit: "", direction: null, group: "Cost", of: (trial) => [trial.tokens, null] },
    {
      name: "time",
      unit: "seconds",
      direction: null,
      group: "Cost",
      of: (trial) => [trial.seconds.reduce((sum, part) => sum + part, 0), null],
    },
    { name: "trial number", unit: "", direction: null, group: "Cost", of: (trial) => [trial.n, null] },
  ];
  return [...fromSuite, ...fromHoldout, ...cost];
}

const choices = axisChoices();

function fillAxisSelect(select, chosen) {
  const groups = new Map();
  choices.forEach((choice, index) => {
    if (!groups.has(choice.group)) groups.set(choice.group, element("optgroup", { label: choice.group }));
    groups.get(choice.group).append(element("option", { value: index }, choice.name));
  });
  select.append(...groups.values());
  select.value = String(chosen);
}

function axisTitle(choice, isAcross) {
  const unit = choice.unit ? ` (${choice.unit})` : "";
  if (!choice.direction) return plain(choice.name + unit);
  const up = choice.direction === "maximise";
  const better = isAcross ? (up ? "better →" : "← better") : up ? "better ↑" : "better ↓";
  return plain(`${choice.name}${unit}   ${better}`);
}

function groupOf(trial) {
  if (trial.n === data.base) return "base";
  if (frontSet.has(trial.n)) return "front";
  return trial.feasible ? "dominated" : "infeasible";
}

function marks(x, y) {
  const groups = { infeasible: [], dominated: [], front: [], base: [] };
  for (const trial of data.trials) {
    if (trial.state !== "COMPLETE") continue;
    const across = x.of(trial);
    const up = y.of(trial);
    if (Array.isArray(across) && Array.isArray(up)) groups[groupOf(trial)].push({ trial, across, up });
  }
  return groups;
}

function hoverText({ trial, across, up }, x, y) {
  const names = { base: "untouched base", front: "on the front", dominated: "dominated", infeasible: "infeasible" };
  let role = names[groupOf(trial)];
  if (trial.n === data.base && frontSet.has(trial.n)) role += ", on the front";
  if (trial.n === data.knee) role += ", knee";
  const lines = [`trial ${trial.n}: ${role}`, ...trial.label.split(" > ").map((stage, i) => (i ? `> ${stage}` : stage))];
  lines.push(`${x.name} ${intervalText(across)}`, `${y.name} ${intervalText(up)}`);
  if (trial.note) lines.push(trial.note);
  return lines;
}

function trace(points, marker, withBars, x, y, colour) {
  const bars = (key) => ({
    type: "data",
    array: points.map((point) => HALF_WIDTH * (point[key][1] || 0)),
    visible: withBars && points.some((point) => point[key][1]),
    color: colour,
    thickness: 1,
    width: 0,
  });
  return {
    type: "scatter",
    mode: "markers",
    x: points.map((point) => point.across[0]),
    y: points.map((point) => point.up[0]),
    error_x: bars("across"),
    error_y: bars("up"),
    customdata: points.map((point) => point.trial.n),
    text: points.map((point) => hoverText(point, x, y).map(plain).join("<br>")),
    hovertemplate: "%{text}<extra></extra>",
    marker,
  };
}

// Of the front, those that no other member dominates in the two measures shown, left to right.
function joined(points, x, y) {
  if (!x.direction || !y.direction) return [];
  const loss = (choice, score) => (choice.direction === "maximise" ? -score[0] : score[0]);
  const rows = points.map((point) => ({ ...point, a: loss(x, point.across), b: loss(y, point.up) }));
  rows.sort((p, q) => p.a - q.a || p.b - q.b);
  let best = Infinity;
  return rows.filter((row) => row.b < best && ((best = row.b), true));
}

function frontTraces(x, y) {
  const colour = colours();
  const groups = marks(x, y);
  const total = Object.values(groups).reduce((sum, points) => sum + points.length, 0);
  const few = total <= MAX_BARS;
  const fewOnFront = groups.front.length <= MAX_BARS;
  const onFront = [...groups.front, ...groups.base.filter((point) => frontSet.has(point.trial.n))];
  const line = joined(onFront, x, y);
  const knee = onFront.filter((point) => point.trial.n === data.knee);
  chartOrder = Object.values(groups)
    .flat()
    .sort((p, q) => p.across[0] - q.across[0])
    .map((point) => point.trial.n);
  return [
    trace(groups.infeasible, { symbol: "circle-open", size: 8, color: colour.dominated }, false, x, y),
    trace(groups.dominated, { size: 7, color: colour.dominated, opacity: 0.75 }, few, x, y, colour.rule),
    {
      type: "scatter",
      mode: "lines",
      x: line.map((point) => point.across[0]),
      y: line.map((point) => point.up[0]),
      line: { color: colour.front, width: 1.5, dash: "dot" },
      hoverinfo: "skip",
    },
    trace(groups.front, { size: fewOnFront ? 10 : 8, color: colour.front }, fewOnFront, x, y, colour.front),
    trace(groups.base, { symbol: "diamond", size: 11, color: colour.base }, true, x, y, colour.base),
    {
      ...trace(knee, { symbol: "circle-open", size: 20, color: colour.ink, line: { width: 2 } }, false, x, y),
      hoverinfo: "skip",
      hovertemplate: null,
    },
    cursorTrace(x, y, colour),
  ];
}

function cursorTrace(x, y, colour) {
  const trial = trialByNumber.get(chartOrder[cursor]);
  const at = trial ? [x.of(trial)[0], y.of(trial)[0]] : null;
  return {
    type: "scatter",
    mode: "markers",
    x: at ? [at[0]] : [],
    y: at ? [at[1]] : [],
    marker: { symbol: "square-open", size: 22, color: colour.ink, line: { width: 2 } },
    hoverinfo: "skip",
  };
}

function chosenAxes() {
  return ["x-axis", "y-axis"].map((id) => choices[Number(document.getElementById(id).value)]);
}

function drawFront() {
  const chart = document.getElementById("front-chart");
  const [x, y] = chosenAxes();
  const layout = baseLayout({
    hovermode: "closest",
    xaxis: { title: { text: axisTitle(x, true) }, zeroline: false },
    yaxis: { title: { text: axisTitle(y, false) }, zeroline: false },
  });
  const traces = frontTraces(x, y);
  if (!chartOrder.length) {
    const note = data.trials.some((trial) => trial.state === "COMPLETE") ? "no trial has both measures" : "no finished trial yet";
    layout.annotations = [{ text: note, showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }];
  }
  return charts().react(chart, traces, layout, CHART_OPTIONS);
}

function moveCursor(event) {
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  if (event.key === "Enter" && cursor >= 0) {
    openTrial(chartOrder[cursor]);
  } else if (steps[event.key] && chartOrder.length) {
    const start = cursor < 0 && steps[event.key] < 0 ? 0 : cursor;
    cursor = (start + steps[event.key] + chartOrder.length) % chartOrder.length;
    const [x, y] = chosenAxes();
    const trial = trialByNumber.get(chartOrder[cursor]);
    const text = hoverText({ trial, across: x.of(trial), up: y.of(trial) }, x, y).join("; ");
    document.getElementById("front-status").textContent = `${text}. Enter opens it.`;
    drawFront();
  } else {
    return;
  }
  event.preventDefault();
}

function startFront() {
  const objectives = data.objectives.map((objective) => choices.findIndex((choice) => choice.name === objective.name));
  const tokens = choices.findIndex((choice) => choice.name === "tokens trained");
  const known = objectives.filter((index) => index >= 0);
  const [x, y] = known.length > 1 ? known : [tokens, known.length ? known[0] : 0];
  fillAxisSelect(document.getElementById("x-axis"), x);
  fillAxisSelect(document.getElementById("y-axis"), y);
  for (const id of ["x-axis", "y-axis"]) {
    document.getElementById(id).addEventListener("change", () => {
      cursor = -1;
      document.getElementById("front-status").textContent = "";
      drawFront();
    });
  }
  const chart = document.getElementById("front-chart");
  chart.addEventListener("keydown", (event) => {
    drawNow(chart);
    moveCursor(event);
  });
  whenNear(chart, () =>
    drawFront().then(() =>
      chart.on("plotly_click", (event) => {
        const number = event.points[0].customdata;
        if (number !== undefined) openTrial(number);
      }),
    ),
  );
}
