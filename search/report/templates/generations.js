// The base and two trials on the same prompts, side by side, with their words compared.

function generationControl(name) {
  return document.getElementById(`generations-${name}`);
}

function valuesText(values) {
  return Object.entries(values).map(([name, value]) => `${name} ${numberText(value)}`).join(", ");
}

function sampledNumbers() {
  const known = Object.keys(data.samples).map(Number).filter((number) => number !== data.base);
  const first = [data.recommended, ...data.routes, data.knee, ...data.front].filter((number) => known.includes(number));
  return [...new Set([...first, ...known])];
}

function generationColumn(title, row, base, isMarked) {
  const head = element("small", {}, title, row && Object.keys(row[2]).length ? `: ${valuesText(row[2])}` : "");
  if (!row) return element("div", {}, head, element("p", { class: "how" }, "Was not asked this."));
  return element("div", {}, head, ...markedText(row[1], base, isMarked));
}

function drawGenerations() {
  const body = document.getElementById("generations-body");
  const shown = ["first", "second"].map((name) => generationControl(name).value).filter((value) => value !== "");
  const evaluator = generationControl("evaluator").value;
  const isMarked = generationControl("diff").checked;
  const rowsOf = shown.map((number) => new Map((data.samples[number] || []).map((row) => [row[0], row])));
  const blocks = [];
  data.prompts.forEach((asked, at) => {
    const name = asked.evaluator + (asked.holdout ? " (holdout)" : "");
    if (name !== evaluator || !rowsOf.some((rows) => rows.has(at))) return;
    const base = asked.base === null ? null : [at, asked.base, asked.baseValues];
    const columns = [generationColumn("base", base, null, false)];
    shown.forEach((number, k) => columns.push(generationColumn(`trial ${number}`, rowsOf[k].get(at), asked.base, isMarked)));
    blocks.push(element("div", { class: "sample" },
      asked.kind ? element("small", {}, asked.kind) : null,
      element("div", { class: "prompt" }, asked.prompt),
      element("div", { class: "columns" }, columns)));
  });
  body.replaceChildren(...(blocks.length ? blocks : [element("p", { class: "how" }, "Neither of them was asked anything here.")]));
}

function startGenerations() {
  if (!document.getElementById("generations-body")) return;
  const numbers = sampledNumbers();
  const option = (number) => {
    const trial = trialByNumber.get(number);
    const mark = number === data.recommended ? ", recommended" : data.routes.includes(number) ? ", a route" : frontSet.has(number) ? ", front" : "";
    return element("option", { value: number }, `${number}: ${trial.order}${mark}`);
  };
  generationControl("first").append(...numbers.map(option));
  generationControl("second").append(element("option", { value: "" }, "none"), ...numbers.map(option));
  if (numbers.length > 1) generationControl("second").value = String(numbers[1]);
  const names = new Set(data.prompts.map((asked) => asked.evaluator + (asked.holdout ? " (holdout)" : "")));
  generationControl("evaluator").append(...[...names].map((name) => element("option", { value: name }, name)));
  for (const name of ["first", "second", "evaluator", "diff"]) generationControl(name).addEventListener("change", drawGenerations);
  whenNear(document.getElementById("generations-body"), drawGenerations);
}
