// Word by word: what a text has that another one has not. Elements only, so text stays text.

const MAX_WORDS = 600; // beyond it, texts are shown without marks
const COMMON_SHARE = 0.2; // with fewer words in common, marks would be all there is to see

function words(text) {
  return text.match(/\s+|[^\s]+/g) || [];
}

// Runs of [kind, text], kind "same", "added" or "gone", by the longest common subsequence; null if there is little in common.
function wordDiff(before, after) {
  const [a, b] = [words(before), words(after)];
  if (a.length > MAX_WORDS || b.length > MAX_WORDS) return null;
  const width = b.length + 1;
  const lengths = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const at = i * width + j;
      lengths[at] = a[i] === b[j] ? lengths[at + width + 1] + 1 : Math.max(lengths[at + width], lengths[at + 1]);
    }
  }
  const runs = [];
  const add = (kind, text) => {
    const last = runs[runs.length - 1];
    if (last && last[0] === kind) last[1] += text;
    else runs.push([kind, text]);
  };
  let [i, j, common, total] = [0, 0, 0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      if (a[i].trim()) common += 1;
      add("same", a[i]);
      i += 1;
      j += 1;
    } else if (i < a.length && (j === b.length || lengths[(i + 1) * width + j] >= lengths[i * width + j + 1])) {
      add("gone", a[i]);
      i += 1;
    } else {
      add("added", b[j]);
      j += 1;
    }
  }
  total = Math.max(a.filter((word) => word.trim()).length, b.filter((word) => word.trim()).length);
  return total && common / total < COMMON_SHARE ? null : runs;
}

// A text with its differences from another one marked; with a note where marks would say nothing.
function markedText(text, base, isMarked) {
  const box = element("pre", { tabindex: "0" });
  if (text === "") box.append("(empty)");
  else if (!isMarked || base === null || base === undefined) box.append(text);
  else if (text === base) return [box, (box.append(text), element("small", {}, "word for word the base's"))];
  else {
    const runs = wordDiff(base, text);
    if (runs === null) return [box, (box.append(text), element("small", {}, "hardly a word in common with the base's"))];
    const tags = { added: "ins", gone: "del" };
    box.append(...runs.map(([kind, part]) => (tags[kind] ? element(tags[kind], {}, part) : part)));
  }
  return [box];
}
