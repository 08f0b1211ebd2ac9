"""What the YAML dialect accepts, and how problems of the model are told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import SpecError
from search.messages import suggest
from search.spec import StudySpec
from search.yaml_file import (
    MAX_BYTES,
    dump_yaml,
    load_model,
    load_study,
    model_problems,
    read_yaml,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("1E5", 100000.0),
        ("-2.5", -2.5),
        (".5", 0.5),
        ("3.", 3.0),
        ("8", 8),
        ("-3", -3),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("On", "On"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ('"8"', "8"),
        ("'true'", "true"),
        ("", None),
        ("~", None),
        ("null", None),
        ("=", "="),
    ],
)
def test_scalars_are_read_as_yaml_1_2_says(file: Path, text: str, value: object) -> None:
    file.write_text(f"key: {text}\n")
    found = read_yaml(file).data["key"]
    assert found == value
    assert type(found) is type(value)


def test_lines_are_those_of_keys_and_list_items(file: Path) -> None:
    file.write_text("a: 1\n\nb:\n  - x: 1\n  - x: 2\n    y: {z: 3}\n")
    located = read_yaml(file)
    assert located.lines == {
        ("a",): 1,
        ("b",): 3,
        ("b", 0): 4,
        ("b", 0, "x"): 4,
        ("b", 1): 5,
        ("b", 1, "x"): 5,
        ("b", 1, "y"): 6,
        ("b", 1, "y", "z"): 6,
    }
    assert located.line(("b", 1, "missing", "deeper")) == 5


def test_aliases_repeat_what_they_name(file: Path) -> None:
    file.write_text("a: &adapter {kind: lora}\nb: *adapter\n")
    assert read_yaml(file).data == {"a": {"kind": "lora"}, "b": {"kind": "lora"}}


def test_alias_bomb_is_refused_quickly(file: Path) -> None:
    lines = ["a: &a [" + "1," * 8 + "]"]
    for before, here in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True):
        lines.append(f"{here}: &{here} [" + f"*{before}," * 8 + "]")
    file.write_text("\n".join(lines))
    started = time.monotonic()
    with pytest.raises(SpecError, match="write fewer aliases"):
        read_yaml(file)
    assert time.monotonic() - started < 5


def test_file_above_the_size_limit_is_refused(file: Path) -> None:
    file.write_text("# " + "x" * MAX_BYTES)
    with pytest.raises(SpecError, match="is larger than 512 KiB; move data into sources"):
        read_yaml(file)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n"])
def test_empty_file_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(SpecError, match=r"file.yaml:1: is empty"):
        read_yaml(file)


def test_list_at_the_top_is_refused(file: Path) -> None:
    file.write_text("\n- a\n")
    with pytest.raises(SpecError, match=r"file.yaml:2: holds no keys at the top"):
        read_yaml(file)


def test_byte_order_mark_and_windows_lines_are_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    located = read_yaml(file)
    assert located.data == {"a": 1, "b": 2}
    assert located.line(("b",)) == 2


def test_broken_utf8_is_refused_with_its_line(file: Path) -> None:
    file.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(SpecError, match=r"file.yaml:2: byte 0xe9 is not UTF-8"):
        read_yaml(file)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["no", "1e-4", "0x1f", "yes", "~", "", "true", "2026-01-01", "<<", "a: b"])
    | st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=8,
)


@given(data=st.dictionaries(st.sampled_from(["no", "a", "1e-4", "null"]), PLAIN, min_size=1))
def test_what_is_dumped_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_yaml(data))
    assert read_yaml(path).data == data


def test_good_study_is_read_into_tuples_and_floats(good_study: Path) -> None:
    spec = load_study(good_study)
    assert spec.order.before == (("tone", "taste"),)
    assert spec.influences["taste"].learning_rate == 1e-5
    assert spec.influences["tone"].model_dump()["adapter"]["rank"] == {"choice": (4, 8)}


def test_dumped_study_is_the_same_study(good_study: Path) -> None:
    spec = load_study(good_study)
    good_study.write_text(dump_yaml(spec.model_dump(mode="json", by_alias=True)))
    assert load_study(good_study) == spec


def test_first_problem_by_line_is_told_with_the_number_of_others(good_study: Path) -> None:
    text = good_study.read_text().replace("trials: 4", "trials: x").replace("sft", "sfx")
    good_study.write_text(text.replace("1e-5", "fast"))
    with pytest.raises(SpecError) as caught:
        load_model(good_study, StudySpec)
    assert str(caught.value) == (
        "study.yaml:12: influences.tone.method: 'sfx' is not known; did you mean 'sft'? (and 2 more)"
    )


def test_misspelt_required_key_is_one_problem_and_not_two(good_study: Path) -> None:
    good_study.write_text(good_study.read_text().replace("dose_tokens: 2000", "dose_token: 2000"))
    problems = model_problems(read_yaml(good_study), StudySpec)
    assert isinstance(problems, list)
    assert [str(problem) for problem in problems] == [
        "study.yaml:21: influences.taste.dose_token: 'dose_token' is not a key here; "
        "did you mean 'dose_tokens'?"
    ]


def test_value_with_line_breaks_stays_one_line(good_study: Path) -> None:
    good_study.write_text(good_study.read_text().replace("1e-5", r'"a\nb\u2028c"'))
    with pytest.raises(SpecError) as caught:
        load_study(good_study)
    assert len(str(caught.value).splitlines()) == 1


def test_suggestion_is_the_near_name_or_all_names() -> None:
    assert suggest("rnak", ["rank", "alpha"]) == "did you mean 'rank'?"
    assert suggest("zzz", ["rank", "alpha"]) == "known: alpha, rank"
    assert suggest("zzz", []) == "there is none"
