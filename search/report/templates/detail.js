// One trial: its stages, what each gave and took, its cost and what the model wrote.

const FIRST_SAMPLES = 3;
let drawnPanels = []; // functions that draw the panels again in new colours

function table(headings, rows, label) {
  const head = element("tr", {}, headings.map(([text, kind]) => element("th", { scope: "col", class: kind || "" }, text)));
  const grid = element("table", {}, element("thead", {}, head), element("tbody", {}, rows));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, grid);
}

function stageTable(trial) {
  const number = "number";
  const headings = [["Stage"], ["Influence"], ["Method"], ["Adapter"], ["Where"], ["Mix"], ["Dose", number],
    ["Learning rate", number], ["Beta", number], ["Handoff"]];
  const rows = trial.stages.map((stage, index) => {
    const passes = (name) => (stage.passes && name in stage.passes ? `, ${numberText(stage.passes[name])} passes` : "");
    const mix = Object.entries(stage.mix).map(([name, share]) => `${name} ${(100 * share).toFixed(0)} %${passes(name)}`);
    const rung = trial.rungs.filter((at) => at.n === index).pop();
    const untrained = rung ? `${countText(rung.tokens)} trained, not to its end` : "not trained";
    const trained = stage.trained === null ? untrained : `${countText(stage.trained)} ${stage.is_stored ? "from the stage store" : "trained"}`;
    const lines = (texts) => texts.map((text) => element("div", {}, text));
    const dropped = stage.dropped ? element("small", {}, `${countText(stage.dropped)} rows dropped: too long`) : null;
    const cells = [stage.influence, stage.method, stage.adapter, lines(stage.where.split(", ")), [...lines(mix), dropped]];
    return element("tr", {},
      element("th", { scope: "row", class: number }, String(index + 1)),
      cells.map((text) => element("td", { class: "lines" }, text)),
      element("td", { class: number }, `${countText(stage.dose)} asked`, element("div", {}, trained)),
      element("td", { class: number }, stage.rate === null ? "" : numberText(stage.rate)),
      element("td", { class: number }, stage.beta === null ? "" : numberText(stage.beta)),
      element("td", {}, stage.handoff));
  });
  return table(headings, rows, "Stages of the recipe");
}

// What single stages left beside scores: pulls between losses, ranks by module.
function insideTables(trial) {
  return trial.stages.flatMap((stage, index) => stage.tables.flatMap(({ title, head, rows }) => [
    element("h4", {}, `Stage ${index + 1}, ${stage.influence}: ${title}`),
    table(head.map((text) => [text]), rows.map(([name, ...cells]) =>
      element("tr", {}, element("th", { scope: "row" }, name), cells.map((text) => element("td", { class: "lines" }, text)))), title),
  ]));
}

// Boundaries with the base's in front, should the trial not hold it itself.
function boundariesOf(trial) {
  const base = trialByNumber.get(data.base);
  const starts = trial.boundaries.length && trial.boundaries[0].n === 0;
  return starts || !base ? trial.boundaries : [base.boundaries[0], ...trial.boundaries];
}

function boundaryName(trial, boundary) {
  return boundary.n === 0 ? "base" : `after ${boundary.n}: ${trial.stages[boundary.n - 1].influence}`;
}

function scoreCell(score, difference) {
  if (score === null || score === undefined) return element("td", {});
  if (!Array.isArray(score)) {
    return element("td", { class: "number missing" }, "missing", element("small", {}, score));
  }
  const shift = difference
    ? element("span", { class: `change ${difference.verdict}` }, signedText(difference.value, difference.stderr))
    : null;
  return element("td", { class: "number" }, intervalText(score), shift);
}

function scoreTable(trial, boundaries) {
  const names = new Set(data.objectives.map((objective) => objective.name));
  const headings = [["Score"], ...boundaries.map((boundary) => [boundaryName(trial, boundary), "number"])];
  const rows = data.scores.map((info, k) =>
    element("tr", {},
      element("th", { scope: "row" }, `${info.name} ${arrow(info.direction)}`,
        element("small", {}, names.has(info.name) ? `${info.unit}, objective` : info.unit)),
      boundaries.map((boundary, at) =>
        scoreCell(boundary.scores[k], at ? change(boundary.scores[k], boundaries[at - 1].scores[k], info.direction) : null))));
  return table(headings, rows, "Scores after each stage");
}

function rungTable(trial) {
  const headings = [["Score"]].concat(trial.rungs.map((rung) =>
    [`${numberText(100 * rung.share)} % of stage ${rung.n + 1}: ${trial.stages[rung.n].influence}`, "number"]));
  const rows = data.scores.map((info, k) =>
    element("tr", {},
      element("th", { scope: "row" }, `${info.name} ${arrow(info.direction)}`, element("small", {}, info.unit)),
      trial.rungs.map((rung) => scoreCell(rung.scores[k], null))));
  return table(headings, rows, "Scores within stages");
}

function holdoutTable(trial) {
  const base = trialByNumber.get(data.base);
  const rows = data.holdout.map((info, k) =>
    element("tr", {},
      element("th", { scope: "row" }, `${info.name} ${arrow(info.direction)}`, element("small", {}, info.unit)),
      scoreCell(base ? base.holdout[k] : null, null),
      scoreCell(trial.holdout[k], base && base !== trial ? change(trial.holdout[k], base.holdout[k], info.direction) : null)));
  return table([["Holdout score"], ["base", "number"], ["this trial", "number"]], rows, "Holdout scores");
}

// One small panel a score: what each stage gave and took, with intervals.
function changePanels(trial, boundaries) {
  const grid = element("div", { class: "panels" });
  data.scores.forEach((info, k) => {
    const steps = boundaries.slice(1).map((boundary, at) => ({
      name: `${boundary.n} ${trial.stages[boundary.n - 1].influence}`,
      ...change(boundary.scores[k], boundaries[at].scores[k], info.direction),
    })).filter((step) => step.value !== undefined);
    if (!steps.length) return;
    const chart = element("div", { class: "chart small" });
    grid.append(element("div", {}, element("h4", {}, `${info.name} ${arrow(info.direction)}`), chart));
    drawnPanels.push(() => {
      const colour = colours();
      const bars = {
        type: "bar",
        x: steps.map((step) => plain(step.name)),
        y: steps.map((step) => step.value),
        width: 0.5,
        marker: { color: steps.map((step) => colour[step.verdict || "dominated"]) },
        error_y: { type: "data", array: steps.map((step) => HALF_WIDTH * (step.stderr || 0)), color: colour.ink, thickness: 1, width: 3 },
        text: steps.map((step) => signedText(step.value, step.stderr)),
        textposition: "none",
        hovertemplate: "%{x}: %{text}<extra></extra>",
      };
      const layout = baseLayout({ margin: { l: 10, r: 4, t: 6, b: 10 }, xaxis: { type: "category", fixedrange: true, range: [-0.5, Math.max(3, steps.length) - 0.5] },
        yaxis: { nticks: 4, zerolinecolor: colour.muted, fixedrange: true } });
      charts().react(chart, [bars], layout, { ...CHART_OPTIONS, displayModeBar: false });
    });
  });
  return grid;
}

function costBlock(trial) {
  const names = ["load", "train", "evaluate", "rest"];
  const total = trial.seconds.reduce((sum, part) => sum + part, 0);
  const bar = element("div", { class: "bar", "aria-hidden": "true" });
  trial.seconds.forEach((part, k) => {
    const span = element("span", { class: `part-${k}` });
    span.style.width = `${total ? (100 * part) / total : 0}%`;
    bar.append(span);
  });
  const parts = trial.seconds.map((part, k) =>
    element("li", {}, element("span", { class: `mark part-${k}` }), `${names[k]} ${durationText(part)}`));
  const asked = trial.stages.reduce((sum, stage) => sum + stage.dose, 0);
  return [
    element("h3", {}, "Cost"),
    element("p", {}, `${durationText(total)} on ${trial.device}; ${countText(trial.tokens)} tokens trained of ${countText(asked)} asked.`),
    bar,
    element("ul", { class: "legend" }, parts),
    ...(trial.storing ? [element("p", { class: "how" }, `Storing trained stages took ${durationText(trial.storing)} beside evaluation.`)] : []),
  ];
}

function sampleBlock(trial) {
  const samples = data.samples[String(trial.n)];
  const heading = element("h3", {}, "What it wrote");
  if (!samples) {
    return [heading, element("p", { class: "how" },
      "No generations here: none were made, or the report left them out; the trial's items.jsonl has them all.")];
  }
  const isBase = trial.n === data.base;
  const how = isBase ? "The first generations of each evaluator." :
    "The first generations of each evaluator, beside the base's for the same prompt. Underlined: words that the base did not write; struck through: words of the base that are gone.";
  const blocks = samples.map(([at, output, values]) => {
    const asked = data.prompts[at];
    const where = [asked.evaluator, asked.holdout ? "holdout" : "", asked.kind].filter(Boolean).join(", ");
    const text = (name, content, numbers, base) => element("div", {},
      element("small", {}, [name, valuesText(numbers)].filter(Boolean).join(": ")), ...markedText(content, base, true));
    const base = asked.base === null ? element("p", { class: "how" }, "The base was not asked this.") : text("base", asked.base, asked.baseValues, null);
    return element("div", { class: "sample" },
      element("small", {}, where),
      element("div", { class: "prompt" }, asked.prompt),
      element("div", { class: "pair" }, text(isBase ? "base" : `trial ${trial.n}`, output, values, isBase ? null : asked.base), isBase ? null : base));
  });
  const more = blocks.slice(FIRST_SAMPLES);
  const rest = element("details", {}, element("summary", {}, `${more.length} more`), more);
  return [heading, element("p", { class: "how" }, how), ...blocks.slice(0, FIRST_SAMPLES), more.length ? rest : null];
}

function headline(trial) {
  const badges = [];
  const badge = (text, kind) => badges.push(element("span", { class: `badge ${kind}` }, text));
  if (trial.front) badge("front", "front");
  if (trial.n === data.knee) badge("knee", "knee");
  if (trial.n === data.base) badge("base", "base");
  else if (trial.baseline) badge(`baseline ${trial.baseline}`, "");
  if (trial.state === "FAIL") badge("failed", "fail");
  if (trial.state === "RUNNING") badge("running", "");
  if (trial.state === "PRUNED") badge("stopped early", "");
  if (trial.state === "COMPLETE" && !trial.feasible) badge("infeasible", "");
  const lines = [element("p", {}, element("strong", {}, `Trial ${trial.n}: `), trial.label, " ", badges)];
  if (trial.state === "FAIL") lines.push(element("p", { class: "alert" }, `Failed: ${trial.reason || "no reason recorded"}`));
  if (trial.state === "PRUNED") lines.push(element("p", { class: "how" }, `Trial ${trial.n} was ${trial.reason || "stopped early"}.`));
  if (trial.broken.length) lines.push(element("p", { class: "alert" }, `Infeasible: ${trial.broken.join("; ")}`));
  if (trial.note) lines.push(element("p", { class: "how" }, `Among the front, but ${trial.note}.`));
  const ended = trial.finished ? `, finished ${trial.finished}` : "";
  lines.push(element("p", { class: "how" }, `Seed ${trial.seed}; started ${trial.started}${ended}.`));
  return lines;
}

function showTrial(trial) {
  const body = document.getElementById("detail-body");
  data.shownTrial = trial.n;
  waiting.delete(body);
  drawnPanels = [];
  const boundaries = boundariesOf(trial);
  const parts = [...headline(trial)];
  if (trial.stages.length) parts.push(element("h3", {}, "Recipe"), stageTable(trial), ...insideTables(trial));
  if (boundaries.length) parts.push(element("h3", {}, "Scores after each stage"), scoreTable(trial, boundaries));
  if (trial.rungs.length) {
    parts.push(element("h3", {}, "Scores within stages"),
      element("p", { class: "how" }, "At rungs, where early stopping looks too. No recipe of the study ends there."),
      rungTable(trial));
  }
  if (boundaries.length > 1) {
    parts.push(element("h3", {}, "What each stage gave and took"),
      element("p", { class: "how" }, "Change since the boundary before. Green is better and red is worse, both beyond the noise; grey is within it."),
      changePanels(trial, boundaries));
  }
  if (trial.holdout.some((score) => score !== null)) parts.push(element("h3", {}, "Holdout"), holdoutTable(trial));
  parts.push(...costBlock(trial), ...sampleBlock(trial));
  body.replaceChildren(...parts.filter((part) => part !== null));
  drawnPanels.forEach((draw) => draw());
  document.getElementById("trial-select").value = String(trial.n);
  document.querySelectorAll("tr.chosen").forEach((row) => row.classList.remove("chosen"));
  const link = document.querySelector(`#trial-table a[href="#trial-${trial.n}"]`);
  if (link) link.closest("tr").classList.add("chosen");
}
