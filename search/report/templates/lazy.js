// What is far from the eye is drawn when it comes near, or when the page is printed; so is the chart library read only then.

const waiting = new Map(); // element to what draws it

const MARGIN = 400; // pixels below and above the window

function drawNow(node) {
  const draw = waiting.get(node);
  if (!draw) return;
  waiting.delete(node);
  draw();
}

function whenNear(node, draw) {
  waiting.set(node, draw);
}

function drawNear() {
  for (const node of [...waiting.keys()]) {
    const { top, bottom } = node.getBoundingClientRect();
    if (bottom > -MARGIN && top < innerHeight + MARGIN) drawNow(node);
  }
}

function isDrawn(node) {
  return !waiting.has(node);
}

for (const name of ["scroll", "resize"]) {
  addEventListener(name, () => { if (waiting.size) requestAnimationFrame(drawNear); }, { passive: true });
}
addEventListener("beforeprint", () => [...waiting.keys()].forEach(drawNow));

// The library lies in the page as text. The policy names its hash, so it may be run, and nothing else.
function charts() {
  if (!window.Plotly) {
    const script = document.createElement("script");
    script.textContent = document.getElementById("charts").textContent;
    document.head.append(script);
  }
  return window.Plotly;
}
