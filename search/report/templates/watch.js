// Of a page that is served: asks whether the study has changed, and reloads with scroll, axes and choices kept.

const WATCH_MILLISECONDS = 2000;
const KEPT = "kept";
let watchedTag = null;

function keepPlace() {
  const values = [...document.querySelectorAll("select[id], input[type=checkbox][id]")].map((control) =>
    [control.id, control.type === "checkbox" ? control.checked : control.value]);
  const open = [...document.querySelectorAll("details")].map((part) => part.open);
  const detail = data.shownTrial === undefined ? null : data.shownTrial;
  sessionStorage.setItem(KEPT, JSON.stringify({ values, open, detail, top: scrollY, focus: document.activeElement ? document.activeElement.id : "" }));
}

function restorePlace() {
  const text = sessionStorage.getItem(KEPT);
  if (!text) return;
  sessionStorage.removeItem(KEPT);
  const kept = JSON.parse(text);
  // What fills selects comes first: a trial's panel, then everything that depends on a choice.
  if (trialByNumber.has(kept.detail)) showTrial(trialByNumber.get(kept.detail));
  for (const [id, value] of kept.values) {
    const control = document.getElementById(id);
    if (!control || id === "trial-select") continue;
    if (control.type === "checkbox") control.checked = value;
    else if ([...control.options].some((option) => option.value === value)) control.value = value;
    else continue;
    if (!waiting.size || id.startsWith("generations") || id.endsWith("-axis")) control.dispatchEvent(new Event("change"));
  }
  const parts = [...document.querySelectorAll("details")];
  if (parts.length === kept.open.length) parts.forEach((part, at) => { part.open = kept.open[at]; });
  const focused = kept.focus && document.getElementById(kept.focus);
  if (focused) focused.focus({ preventScroll: true });
  scrollTo({ top: kept.top, behavior: "instant" });
}

async function look() {
  try {
    const answer = await fetch(location.pathname, { method: "HEAD", cache: "no-store" });
    const tag = answer.headers.get("ETag");
    if (answer.ok && watchedTag === null) watchedTag = tag;
    else if (answer.ok && tag !== watchedTag) {
      keepPlace();
      location.reload();
      return;
    }
    document.getElementById("watched").textContent = "Live: this page follows the study.";
  } catch {
    document.getElementById("watched").textContent = "No longer live: the command that served this page has ended.";
  }
  setTimeout(look, WATCH_MILLISECONDS);
}

if (document.getElementById("watched")) {
  restorePlace();
  look();
}
