"""Wrong words on the command line and damaged files of a study: one line with a remedy, exit code 2, nothing made."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from report_fixture import write_study

from search.cli.main import main
from search.folders import MAX_RECORD_BYTES, StudyFile, StudyFolder
from search.spec import BudgetSpec

# Words of a command, fragment of what it says.
WORDS = [
    ("nope", "no such command 'nope'"),
    ("check", "missing argument 'STUDY'"),
    ("check no.yaml", "no.yaml: there is no such file"),
    ("check .", ".: is a folder; name the YAML file"),
    ("check study.yaml extra", "unexpected extra argument"),
    ("check --nope", "no such option: --nope"),
    ("check study.yaml --json=3", "does not take a value"),
    ("check a\0b", "null byte"),
    ("check \ud800", "'STUDY'"),
    (f"check {'x' * 5000}", "File name too long"),
    ("plan study.yaml --n -1", "greater than or equal to 0"),
    ("plan study.yaml --n x", "valid integer"),
    ("plan study.yaml --n 99999999999999999999", "less than or equal to 1000"),
    ("plan study.yaml --resolution nan", "nan is not above 0"),
    ("plan study.yaml --resolution -1", "-1 is not above 0"),
    ("plan study.yaml --seed x", "valid integer"),
    ("run no.yaml", "no.yaml: there is no such file"),
    ("run study.yaml --results study.yaml", "cannot be made"),
    ("resume .", "no study here"),
    ("resume study.yaml", "no study here"),
    ("status nope", "nope: no study here"),
    ("show .", "missing argument 'TRIAL'"),
    ("show . x", "valid integer"),
    ("show . 0", "no study here"),
    ("explain nope", "no study here"),
    ("moved . 0", "no study here"),
    ("compare . 1", "missing argument 'B'"),
    ("compare . 1 2", "no study here"),
    ("recommend nope --target x", "no study here"),
    ("routes .", "no study here"),
    ("graph nope.yaml", "there is no such file"),
    ("graph study.yaml", "training: is missing"),
    ("train study.yaml", "missing option '--out'"),
    ("train study.yaml --out o", "training: is missing"),
    ("export nope 0 --to merged --out o", "nope: holds no study.yaml"),
    ("export . 0 --to ../x --out o", "--to: '../x' is not known"),
    ("store ls nope", "no store here"),
    ("store verify data", "no store here"),
    ("store gc data", "missing option '--max-size'"),
    ("store ls nope://x", "check the url"),
    ("schema --out nope/x", "nope/x: cannot be written"),
    ("schema --out data", "data: cannot be written (Is a directory)"),
    ("init data", "data: is not empty"),
    ("init study.yaml", "is a file; name a new folder"),
    ("init x --example nope", "is not an example"),
    ("methods --study nope", "there is no such file"),
    ("evaluators verify nope:No", "cannot be imported"),
    ("evaluators verify os:getcwd", "os:getcwd"),
    ("evaluators verify nocolon", "is no import path"),
    ("evaluators verify os:system --spec {", "--spec is not JSON"),
    (f"evaluators verify os:system --spec {'[' * 100_000}", "--spec is not JSON"),
    ("evaluators verify os:system --spec []", "--spec is no JSON object"),
    ("evaluators verify os:system --rows x", "has no source and file"),
    ("evaluators verify os:system --rows x=nope.jsonl", "nope.jsonl: No such file"),
    ("data stats nope", "there is no such file"),
    ("data preview study.yaml --n -3", "greater than or equal to 1"),
    ("confirm .", "no study here"),
    ("confirm . --seeds 0", "greater than or equal to 2"),
    ("report nope", "no study here"),
]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that a command prints as it refuses what it was given; it makes nothing."""
    before = sorted(Path().rglob("*"))
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert err[:-1].isprintable()
    assert ";" in err or "(see `apportion" in err, f"no remedy: {err}"
    assert "Traceback" not in err
    assert sorted(Path().rglob("*")) == before
    return err


@pytest.mark.parametrize(("words", "said"), WORDS, ids=[words[:40] for words, _ in WORDS])
def test_wrong_words_are_refused_in_one_line(
    words: str, said: str, good_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(words.split(" "), capsys)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.chdir(tmp_path)
    files = write_study(tmp_path / "r", n_trials=3, n_objectives=2)
    files.write_file(
        StudyFile(root=".", created_at="2026-11-24", study_hash="0", budget=BudgetSpec(trials=4))
    )
    return files


def damaged(good: str) -> dict[str, bytes]:
    """Return contents that are no record, by name."""
    data = json.loads(good)
    return {
        "empty": b"",
        "cut": good.encode()[: len(good) // 2],
        "null": b"null",
        "a list": b"[]",
        "nothing in it": b"{}",
        "another kind": b'{"name": 1}',
        "nested deeply": b"[" * 100_000,
        "nested keys": b'{"a":' * 100_000,
        "not UTF-8": b'{"a": "\xff"}',
        "half a pair": json.dumps(
            {**data, "started_at": "\ud800", "created_at": "\ud800"}
        ).encode(),
        "not finite": good.replace("0.4", "NaN", 1).encode() if "0.4" in good else b"NaN",
        "an unknown key": json.dumps({**data, "xyz": 1}).encode(),
        "long digits": b'{"number": ' + b"9" * 5000 + b"}",
        "a pickle": b"\x80\x04\x95\x10\x00",
    }


NAMES = list(damaged("{}"))


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_trial_is_refused_in_one_line(
    name: str, results: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    record = results.trial(1).record
    record.write_bytes(damaged(record.read_text())[name])
    for words in (["status", "r"], ["show", "r", "1"], ["explain", "r", "1"], ["recommend", "r"]):
        assert "0001" in refused(words, capsys)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_study_is_refused_in_one_line(
    name: str, results: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    results.study_json.write_bytes(damaged(results.study_json.read_text())[name])
    assert "study.json" in refused(["resume", "r"], capsys)


@pytest.mark.parametrize("name", ["trial.json", "study.json"])
def test_a_record_without_end_is_not_read_to_its_end(
    name: str, results: StudyFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = results.trial(1).record if name == "trial.json" else results.study_json
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    said = refused(["status", "r"] if name == "trial.json" else ["resume", "r"], capsys)
    assert f"longer than {MAX_RECORD_BYTES >> 20} MiB" in said
