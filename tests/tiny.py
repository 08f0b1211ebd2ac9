"""A study on a tiny random model: everything real but the size, so that whole studies run in seconds."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from evaluators.contract.tiny import ANIMALS, tiny_model, tiny_tokenizer
from search.folders import StudyFolder

STUDY = """
name: tiny
base: {path: model}
sources:
  chat: {path: chat.jsonl, format: messages}
  pairs: {path: pairs.jsonl, format: preference}
  ask: {path: ask.jsonl, format: prompt}
  greet: {path: greet.jsonl, format: prompt}
  other_pairs: {path: other_pairs.jsonl, format: preference}
  prose: {path: prose.jsonl, format: text}
influences:
  tone: {method: sft, adapter: {kind: lora, rank: {choice: [2, 4]}}, mix: {chat: 1.0},
         dose_tokens: {low: 150, high: 600}, learning_rate: {low: 1e-3, high: 1e-2, log: true}}
  form: {method: sft, adapter: {kind: full}, mix: {chat: 1.0}, dose_tokens: 300, learning_rate: 1e-3}
  taste: {method: dpo, adapter: {kind: lora, rank: 2}, mix: {pairs: 1.0}, dose_tokens: 300, learning_rate: 1e-2}
order: {max_stages: 2}
training: {rows_per_step: 4, max_length: 64}
suite:
  short: {evaluator: pattern, source: ask, rules: [{rule: length, unit: words, at_most: 3}], max_new_tokens: 6}
  taste: {evaluator: preference, source: other_pairs}
  retention: {evaluator: retention, source: prose, max_tokens: 32}
holdout:
  shorter: {evaluator: pattern, source: greet, rules: [{rule: length, unit: words, at_most: 1}], max_new_tokens: 6}
objectives: [{score: taste.margin, reference: -5.0}, {score: retention.kl, reference: 5.0}]
constraints: [{score: retention.kl, at_most: 4.0}]
sampler: {seed: 5, cost: tokens}
budget: {trials: 6}
compute: {device: cpu}
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "search.cli.main", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}


def run_here(study_yaml: Path) -> StudyFolder:
    """Run a study in this process, as a driver with one worker does, and return its results."""
    from search.check import checked_study
    from search.lab import Lab
    from search.store import StageStore
    from search.study import Study
    from search.trial import TrialRun

    checked, root = checked_study(study_yaml), study_yaml.parent
    study = Study.create(
        checked.spec, study_yaml, root / "results", "apportion run", warnings=checked.warning_lines
    )
    store = study.folder.store_root(checked.spec, root)
    lab = Lab.load(checked.spec, root, None if store is None else StageStore(store))
    while (proposal := study.next()) is not None:
        run = TrialRun(lab, study.folder.trial(proposal.number), proposal)
        while not run.step():
            pass
        study.finish(run.record)
    study.close("done")
    return study.folder


def write_model(folder: Path) -> None:
    tokenizer = tiny_tokenizer([f"the {animal} says hello to you" for animal in ANIMALS])
    tiny_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_reward_model(model: Path, folder: Path) -> None:
    """A random classifier with one output on the backbone and the tokenizer of a tiny model."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(1)
    config = LlamaConfig.from_pretrained(model, num_labels=1, tie_word_embeddings=False)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)


def write_data(folder: Path) -> None:
    def ask(animal: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"What does the {animal} say?"}]

    def answer(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    rows: dict[str, list[dict[str, object]]] = {
        "chat": [{"messages": ask(a) + answer(f"the {a} says hello")} for a in ANIMALS[:8]],
        "pairs": [
            {"prompt": ask(a), "chosen": answer("hello to you"), "rejected": answer(f"the {a}")}
            for a in ANIMALS[:8]
        ],
        "ask": [{"prompt": ask(a), "kind": "animal"} for a in ANIMALS[8:]],
        "greet": [
            {
                "prompt": [{"role": "user", "content": f"Hello {a}, how are you?"}],
                "kind": "animal",
            }
            for a in ANIMALS[8:]
        ],
        "other_pairs": [
            {"prompt": ask(a), "chosen": answer("hello to you"), "rejected": answer(f"the {a}")}
            for a in ANIMALS[8:]
        ],
        "prose": [
            {"text": f"Once the {a} met a friend and said hello to you all."} for a in ANIMALS
        ],
    }
    for name, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)


def records(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(results.glob("trials/*/trial.json"))]


def substance(results: Path) -> list[dict[str, Any]]:
    """What must be equal in two runs of one study: recipes, digests, losses, scores; not times."""
    return [
        {
            "recipe": record["recipe"],
            "losses": [stage["loss_by_step"] for stage in record["stages"]],
            "scores": [(b["digest"], b["scores"], b["holdout"]) for b in record["boundaries"]],
        }
        for record in records(results)
    ]
