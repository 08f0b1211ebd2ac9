"""What a spec says of its scores before any model is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from evaluators.spec import EvaluatorSpec, HarnessSpec


def spec_of(**fields: Any) -> Any:
    return TypeAdapter(EvaluatorSpec).validate_json(json.dumps(fields))


def test_scores_have_names_units_directions_and_worst_values() -> None:
    rules = [{"rule": "starts_with", "text": "a"}]
    specs = {
        "short": spec_of(evaluator="pattern", source="ask", rules=rules),
        "taste": spec_of(evaluator="preference", source="pairs"),
        "web": spec_of(evaluator="likelihood", source="prose"),
        "keep": spec_of(evaluator="retention"),
        "exam": spec_of(evaluator="harness", tasks=["a", "b"], metric="acc,none"),
        "ppl": spec_of(evaluator="harness", tasks=["c"], metric="word_perplexity,none"),
    }
    infos = [
        (info.name, info.unit, info.direction, info.worst)
        for name, spec in specs.items()
        for info in spec.infos(name)
    ]
    assert infos == [
        ("short", "share", "maximise", 0.0),
        ("taste.accuracy", "share", "maximise", 0.0),
        ("taste.margin", "nats/token", "maximise", None),
        ("taste.gain", "nats", "maximise", None),
        ("taste.gain_accuracy", "share", "maximise", 0.0),
        ("web", "bits/byte", "minimise", None),
        ("keep.bits_per_byte_change", "bits/byte", "minimise", None),
        ("keep.kl", "nats/token", "minimise", None),
        ("exam.a", "share", "maximise", 0.0),
        ("exam.b", "share", "maximise", 0.0),
        ("ppl.c", "word_perplexity", "minimise", None),
    ]


def test_sources_come_with_the_formats_that_fit() -> None:
    assert spec_of(evaluator="preference", source="p").sources() == (("p", ("preference",)),)
    assert spec_of(evaluator="retention").sources() == ()
    assert spec_of(evaluator="retention", source="t").sources() == (("t", ("text",)),)


def test_directions_agree_with_the_harness_for_all_its_metrics() -> None:
    import lm_eval.api.metrics  # noqa: F401 - fills the registry
    from lm_eval.api.registry import higher_is_better_registry as registry

    wrong = {
        metric
        for metric in registry
        for info in spec_of(evaluator="harness", tasks=["t"], metric=f"{metric},none").infos("x")
        if (info.direction == "maximise") != registry.get(metric)
    }
    assert "word_perplexity" in set(registry)
    assert wrong == set()


def test_a_direction_of_ones_own_wins() -> None:
    spec = spec_of(evaluator="harness", tasks=["t"], metric="acc,none", direction="minimise")
    (info,) = spec.infos("x")
    assert (info.direction, info.worst) == ("minimise", None)


def test_harness_folder_counts_from_the_root(tmp_path: Path) -> None:
    spec = spec_of(evaluator="harness", tasks=["t"], include_path="tasks")
    assert isinstance(spec, HarnessSpec)
    assert spec.with_root(tmp_path).include_path == str(tmp_path / "tasks")
    assert spec.with_root(tmp_path).with_root(tmp_path) == spec.with_root(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluator": "pattern", "source": "a", "rules": []}, "at least one rule"),
        ({"evaluator": "harness", "tasks": ["t", "t"]}, "list each once"),
        ({"evaluator": "preference", "source": "a", "limit": 0}, "greater than 0"),
        ({"evaluator": "likelihood", "source": "a", "max_tokens": 1}, "greater than 1"),
        ({"evaluator": "likelihood", "source": "a", "window": 5}, "not permitted"),
        ({"evaluator": "jury"}, "'pattern'"),
    ],
)
def test_bad_spec_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec_of(**fields)


def test_a_spec_survives_being_written_and_read() -> None:
    rules = [{"rule": "json_schema", "schema": {"type": "object"}}]
    spec = spec_of(evaluator="pattern", source="ask", rules=rules)
    assert TypeAdapter(EvaluatorSpec).validate_json(spec.model_dump_json()) == spec


def test_specs_and_suite_need_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path; import evaluators.spec, evaluators.suite\n"
        "from evaluators.spec import RetentionSpec\n"
        "evaluators.suite.Suite({'keep': RetentionSpec(evaluator='retention')}, {}, Path('.'))\n"
        "print(sorted({'torch', 'transformers', 'lm_eval', 'jsonschema'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
