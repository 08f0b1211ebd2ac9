"""Each malformed study gives one line with file, place and remedy, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from search.cli.main import main

# Name, text of the good study, what stands there instead, place, fragment of the remedy.
STUDIES = [
    # Not YAML, or not the dialect.
    ("tab", "name: demo", "\tname: demo", ":1: ", "indent with spaces"),
    ("open bracket", "order: [tone], ", "order: [tone, ", ":40: ", "brackets"),
    ("two colons", "name: demo", "name: demo: two", ":1: ", "quote text"),
    ("key twice", "name: demo", "name: demo\nname: other", ":2: 'name'", "first in line 1; keep one"),
    ("python tag", "name: demo", "name: !!python/name:os.system x", ":1: ", "remove it"),
    ("own tag", "trials: 4", "trials: !budget 4", ":41: ", "remove it"),
    ("number as key", "  tone:\n", "  1:\n", ":11: influences: ", "quote it"),
    ("merge key", "name: demo", "<<: {name: demo}", ":1: ", "write the keys out"),
    ("unknown alias", "{trials: 4}", "*money", ":41: ", "write the value out"),
    ("infinity", "beta: 0.1", "beta: .inf", ":23: influences.taste.beta: .inf", "finite"),
    ("not a number", "beta: 0.1", "beta: .nan", ":23: influences.taste.beta: .nan", "finite"),
    ("huge float", "beta: 0.1", "beta: 1e999", ":23: influences.taste.beta: 1e999", "finite"),
    ("huge integer", "dose_tokens: 2000", "dose_tokens: 1" + "0" * 30, ":21: ", "below 2**63"),
    ("control character", "name: demo", 'name: "d\x07"', ":1: ", "remove it"),
    ("two documents", "order:\n", "---\norder:\n", ":24: ", "keep one document"),
    ("deep nesting", "{trials: 4}", "[" * 60 + "]" * 60, ":41: ", "flatten it"),
    ("endless alias", "name: demo", "a: &a [*a]\nname: demo", ":1: ", "remove the alias"),
    ("half a surrogate pair", "name: demo", r'name: "d\ud800"', ":1: name: holds half a surrogate pair (\\ud800)",
     "remove it"),
    ("half a pair in a key", "  tone:\n", '  "\\ud800":\n', ":11: influences: holds half a surrogate", "remove it"),
    # Wrong keys and kinds.
    ("word for a mix", "{pairs: 1.0}", "pairs", ":20: influences.taste.mix: 'pairs'",
     "with simplex or with start, end or with temperature, sources or `name: value` lines"),
    ("no name", "name: demo\n", "", ":1: name: is missing", "add it"),
    ("misspelt key", "method: sft", "methd: sft", ":12: influences.tone.methd: ", "'method'?"),
    ("key of another place", "beta: 0.1", "rank: 4", ":23: influences.taste.rank", "adapter.rank?"),
    ("unknown key", "trials: 4", "trials: 4, xyz: 1", ":41: budget.xyz", "known: "),
    ("word for a number", "{choice: [4, 8]}", "eight", ":13: influences.tone.adapter.rank: 'eight'",
     "write a whole number, {low: ..., high: ...} or {choice: [...]}"),
    ("list for a choice", "{choice: [4, 8]}", "[4, 8]", ":13: influences.tone.adapter.rank", "{choice"),
    ("fraction for a whole", "{choice: [4, 8]}", "4.5", ":13: influences.tone.adapter.rank: 4.5", "whole"),
    ("quoted number", "trials: 4", 'trials: "4"', ":41: budget.trials: '4'", "without quotes"),
    ("underscored number", "dose_tokens: 2000", "dose_tokens: 2_000", ":21: ", "without quotes, _"),
    ("no as a truth", "before: [[tone, taste]]", "per_position: no", ":25: order.per_position: 'no'",
     "write true or false"),
    ("empty value", "beta: 0.1", "method:", ":23: ", "keep one"),
    ("nothing for a number", "dose_tokens: 2000", "dose_tokens:", ":21: influences.taste.dose_tokens",
     "is empty; write a whole number"),
    ("word for a mapping", "adapter: {kind: full, layers: 0-3}", "adapter: full",
     ":19: influences.taste.adapter: 'full'", "`kind:`"),
    ("unknown adapter", "kind: full", "kind: ful", ":19: influences.taste.adapter.kind: 'ful'", "'full'?"),
    ("unknown evaluator", "pattern", "patern", ":28: suite.style.evaluator: 'patern'", "'pattern'?"),
    ("unknown format", "format: text", "format: txt", ":9: sources.prose.format: 'txt'", "'text'?"),
    ("broken expression", '{rule: contains, text: "!"}', '{rule: regex, pattern: "("}',
     ":30: suite.style.rules[0]", "mend it"),
    ("name as a path", "name: demo", "name: ../demo", ":1: name: ", "use letters"),
    ("slash in a name", "  tone:\n", "  to/ne:\n", ":11: influences.'to/ne'", "use letters"),
    ("no objective", "  - score: style\n  - {score: retention.kl, reference: 2.0}", "  []",
     ":34: objectives", "add at least 1"),
    ("no budget", "{trials: 4}", "{}", ":41: budget", "give trials"),
    ("negative budget", "trials: 4", "trials: -4", ":41: budget.trials: -4", "above 0"),
    # Values that cannot be.
    ("range upside down", "low: 1e-4, high: 1e-3", "low: 1e-2, high: 1e-3",
     ":16: influences.tone.learning_rate", "swap them"),
    ("half a range", "{low: 1000, high: 4000, log: true}", "{low: 1000}",
     ":15: influences.tone.dose_tokens.high: is missing", "add it"),
    ("log from zero", "low: 1000,", "low: 0,", ":15: influences.tone.dose_tokens", "raise it"),
    ("rank zero", "[4, 8]", "[0, 8]", ":13: influences.tone.adapter.rank.choice[0]: 0", "at least 1"),
    ("dropout one", "layers: 50%-100%", "dropout: 1.0", ":13: influences.tone.adapter.dropout: 1.0",
     "below 1"),
    ("rate below zero", "1e-5", "-1e-5", ":22: influences.taste.learning_rate: -1e-05", "above 0"),
    ("dose below zero", "{low: 1000, high: 4000, log: true}", "{low: -1, high: 4000}",
     ":15: influences.tone.dose_tokens.low: -1", "at least 0"),
    ("dose of nothing", "{low: 1000, high: 4000, log: true}", "{choice: [0]}",
     ":15: influences.tone.dose_tokens: 0 leaves", "remove the influence"),
    ("dose that leaves too few stages", "2000\n    learning_rate: 1e-5\n    beta: 0.1\norder:\n",
     "{choice: [0, 2000]}\n    learning_rate: 1e-5\n    beta: 0.1\norder:\n  min_stages: 2\n",
     ":25: order.min_stages: is 2, and the dose of taste may become 0", "set min_stages to 1"),
    ("repeat that grows without end", "method: sft\n", "method: sft\n    repeat: {dose_factor: 20}\n",
     ":13: influences.tone.repeat.dose_factor: 20", "at most 10"),
    ("two doses for one run", "beta: 0.1\norder:\n",
     "repeat: {dose_factor: 0.5}\norder:\n  max_repeats: 2\n  per_position: true\n",
     ":26: order.per_position: gives each run of taste", "remove one"),
    ("no round", "before: [[tone, taste]]", "rounds: 0", ":24: order: rounds may be 0", "at least 1"),
    ("rounds of repeats", "before: [[tone, taste]]", "max_repeats: 2\n  rounds: {choice: [1, 2]}",
     ":24: order: rounds run", "one of both"),
    ("beta of sft", "method: dpo", "method: sft", ":17: influences.taste: ", "remove beta"),
    ("shares above one", "{pairs: 1.0}", "{pairs: 0.7, held: 0.7}", ":17: influences.taste", "sum to 1"),
    ("lows above one", "plain: {}", "plain: {low: 0.9}", ":14: influences.tone.mix", "widen them"),
    ("layers backwards", "layers: 0-3", "layers: 3-0", ":19: influences.taste.adapter.layers: '3-0'",
     "smaller number first"),
    ("layers beyond the base", "layers: 0-3", "layers: 0-9", ":19: influences.taste.adapter.layers",
     "0-3"),
    ("layers in words", "layers: 0-3", "layers: upper", ":19: influences.taste.adapter.layers", "50%-100%"),
    ("misspelt target", "layers: 0-3", "targets: atention", ":19: influences.taste.adapter.targets",
     "'attention'?"),
    ("adapter on everything", "layers: 50%-100%", "targets: everything",
     ":13: influences.tone.adapter.targets", "full adapters"),
    ("full that stacks", "beta: 0.1", "handoff: stack", ":23: influences.taste.handoff", "write merge"),
    ("continue into full", "method: sft\n", "method: sft\n    handoff: continue\n",
     ":13: influences.tone.handoff", "make both adapters equal"),
    ("unknown handoff", "beta: 0.1", "handoff: fold", ":23: influences.taste.handoff: 'fold'", "known: "),
    # Names that lead nowhere.
    ("unknown source", "{pairs: 1.0}", "{pears: 1.0}", ":20: influences.taste.mix.pears", "'pairs'?"),
    ("source of another format", "{pairs: 1.0}", "{chat: 1.0}", ":20: influences.taste.mix.chat",
     "dpo reads preference"),
    ("evaluator's source", "source: asks", "source: prose", ":29: suite.style.source", "reads prompt"),
    ("unknown score", "score: style", "score: stile", ":35: objectives[0].score: 'stile'", "'style'?"),
    ("half a score", "choice.accuracy", "choice", ":38: constraints[0].score: 'choice'", "choose choice.accuracy"),
    ("score of the holdout", "score: style", "score: english", ":35: objectives[0].score",
     "move it to suite"),
    ("objective twice", "- score: style", "- {score: retention.kl, reference: 1.0}",
     ":36: objectives[1]", "keep one"),
    ("no reference", "retention.kl, reference: 2.0", "retention.kl", ":36: objectives[1]",
     "add reference"),
    ("same name held out", "english:", "style:", ":33: holdout.style", "choose another"),
    ("unknown influence", "[[tone, taste]]", "[[tone, tast]]", ":25: order.before[0][1]: 'tast'",
     "'taste'?"),
    ("circle", "[[tone, taste]]", "[[tone, taste], [taste, tone]]", ":25: order.before", "remove one"),
    ("too many stages", "before: [[tone, taste]]", "max_stages: 3", ":25: order.max_stages", "lower it"),
    ("baseline's order", "order: [tone], values: {tone.rank: 4, tone.dose_tokens: 1000}",
     "order: [taste, tone]", ":40: baselines[0]", "order.before"),
    ("baseline's value", "tone.rank: 4", "tone.rank: 5", ":40: baselines[0].values.'tone.rank'", "4, 8"),
    ("baseline's key", "tone.rank: 4", "tone.rnak: 4", ":40: baselines[0].values.'tone.rnak'",
     "'tone.rank'?"),
    ("population of tpe", "{trials: 4}", "{trials: 4}\nsampler: {population: 8}",
     ":42: sampler.population", "remove it"),
    # Places that are not there.
    ("no model", "path: model", "path: modell", ":2: base.path: modell", "name the folder"),
    ("two bases", "path: model", "path: model, hub: a/b", ":2: base: ", "exactly one of"),
    ("no package", "path: model", "package: no_such_package_here", ":2: base.package", "install it"),
    ("no gguf", "path: model", "path: model, gguf_file: x.gguf", ":2: base.gguf_file", "GGUF files there"),
    ("no source file", "data/chat.jsonl", "data/chats.jsonl", ":4: sources.chat.path", "correct the path"),
    ("endless path", "data/chat.jsonl", "a" * 999, ":4: sources.chat.path", "correct the path"),
    ("endless model path", "path: model", f"path: {'a' * 999}", ":2: base.path", "name the folder"),
    ("NUL in a path", "data/chat.jsonl", r'"a\0b"', ":4: sources.chat.path", "correct the path"),
    ("no task folder", "choice: {evaluator: preference, source: held}",
     "choice: {evaluator: harness, tasks: [a], include_path: tasks}", ":31: suite.choice.include_path",
     "task files"),
    ("more CPUs than there are", "{trials: 4}", "{trials: 4}\ncompute: {cpus_per_trial: 9999}",
     ":42: compute.cpus_per_trial: 9999", "lower it"),
    ("influence called base", "  taste:", "  base:", ":17: influences.base", "choose another"),
    ("evaluator called recipe", "  style:", "  recipe:", ":27: suite.recipe", "choose another"),
    ("store in a file", "{trials: 4}", "{trials: 4}\nstore: {path: study.yaml}", ":42: store.path",
     "name a folder"),
    ("database in memory", "{trials: 4}", "{trials: 4}\nstorage: 'sqlite://'", ":42: storage",
     "sqlite:///FILE"),
    ("unknown database", "{trials: 4}", "{trials: 4}\nstorage: 'sqlit:///x.db'", ":42: storage", "'sqlite'?"),
]  # fmt: skip


def tree(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "old", "new", "place", "remedy"), STUDIES)
def test_malformed_study_is_refused_in_one_line(
    name: str,
    old: str,
    new: str,
    place: str,
    remedy: str,
    good_study: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = good_study.read_text()
    assert old in text, f"{name}: the good study has changed"
    good_study.write_text(text.replace(old, new, 1))
    before = tree(Path())
    code = main(["check", str(good_study)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(f"error: study.yaml{place}"), err
    assert remedy in err.removeprefix(f"error: study.yaml{place}"), err
    foreign = ("Traceback", "pydantic", "Input should", ".fixed", ".range", ".searched", ".lora")
    assert not any(word in err for word in foreign), err
    assert tree(Path()) == before


def test_good_study_of_the_corpus_is_fine(
    good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(good_study)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "warning" not in out
    assert out.endswith("no errors\n")


def test_corpus_has_at_least_45_studies_with_distinct_names() -> None:
    assert len({name for name, *_ in STUDIES}) == len(STUDIES) >= 45


@pytest.mark.parametrize("name", ["tab", "misspelt key", "rank zero", "no model"])
def test_malformed_study_is_refused_as_a_process(name: str, good_study: Path) -> None:
    old, new, place, remedy = next(case[1:] for case in STUDIES if case[0] == name)
    good_study.write_text(good_study.read_text().replace(old, new, 1))
    done = subprocess.run(
        [sys.executable, "-m", "search.cli.main", "check", "study.yaml"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: study.yaml{place}")
    assert remedy in done.stderr
