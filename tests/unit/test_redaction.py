"""Secrets: variables in urls, what counts as one, and that none is in any file or line of a study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from played import STUDY, played, study_file

from evaluators.redaction import expanded, literal_secret, redacted
from search.cli.main import main
from search.errors import SpecError, StudyError
from search.folders import StudyFolder, store_place
from search.report.write import write_report
from search.storage import database_url, open_study
from search.study import Study
from search.yaml_file import load_study

SECRETS = {
    "HF_TOKEN": "hf_PlantedPlantedPlantedPlantedPlanted1",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "JUDGE_API_KEY": 'quoted"and\\slashed#Ü9',
    "DATABASE_URL": "postgresql://searcher:Inside-a-url-7@db.example/studies",
}
DB_PASSWORD = "p@ss:w/rd?77"
VALUES = (*SECRETS.values(), DB_PASSWORD, "Inside-a-url-7", "p%40ss%3Aw%2Frd%3F77")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DB_PASSWORD", DB_PASSWORD)


def test_variables_in_front_of_an_at_are_quoted_and_others_put_in_as_they_are() -> None:
    environment = {"PASSWORD": "p@s:s", "HOST": "db.example:5432", "WHOLE": "sqlite:///a@b.db"}
    url = expanded("postgresql://u:${PASSWORD}@${HOST}/name", environment)
    assert url == "postgresql://u:p%40s%3As@db.example:5432/name"
    assert expanded("${WHOLE}", environment) == "sqlite:///a@b.db"
    with pytest.raises(ValueError, match="PORT is not set"):
        expanded("http://h:${PORT}", environment)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@h/db",
        "postgresql+psycopg://u:s3/cr3t@h/db",
        "postgresql://u:a${NAME}@h/db",
        "mysql://h/db?user=u&password=abc",
        "s3://key:secret@bucket/store",
    ],
)
def test_password_in_a_file_is_refused_without_repeating_it(url: str, tmp_path: Path) -> None:
    problem = literal_secret(url)
    assert problem is not None
    text = STUDY.replace("budget:", f"storage: '{url}'\nbudget:")
    with pytest.raises(SpecError) as refused:
        load_study(study_file(tmp_path, text=text))
    for told in (problem, str(refused.value)):
        assert "write ${NAME}" in told
        assert not any(part in told for part in ("secret", "s3/cr3t", "abc"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:${DB_PASSWORD}@h/db",
        "postgresql://u@h/db",
        "sqlite:////data/a:b@c.db",
        "http://host:8000/a@b",
        "${STORE}",
    ],
)
def test_url_without_a_password_of_its_own_is_allowed(url: str) -> None:
    assert literal_secret(url) is None


def test_values_of_the_environment_are_masked_in_every_way_they_are_written() -> None:
    environment = {"MY_TOKEN": 'a"b\\c d/1', "DATABASE_URL": "mysql://u:Url-secret-1@h/d"}
    secret = environment["MY_TOKEN"]
    for text in (
        secret,
        json.dumps({"x": secret}),
        repr(secret),
        "a%22b%5Cc%20d%2F1",
        "Url-secret-1",
    ):
        assert "***" in redacted(text, environment)
        assert "b\\" not in redacted(text, environment)
    assert json.loads(redacted(json.dumps({"x": secret}), environment)) == {"x": "***"}


def test_words_numbers_and_paths_are_not_taken_for_secrets() -> None:
    environment = {
        "A_TOKEN": "reference",
        "B_KEY": "12345678",
        "C_SECRET": "/run/secrets/x1",
        "D_KEY": "short1",
        "HOME": "Not-secret-77",
    }
    text = " ".join(environment.values())
    assert redacted(text, environment) == text


def test_passwords_in_urls_and_known_forms_are_masked_wherever_they_come_from() -> None:
    text = "at https://me:hunter2@h/x?token=abc&b=1 with hf_abcdefghijklmnopqrstuvwxyzABCD123456"
    assert redacted(text, {}) == "at https://me:***@h/x?token=***&b=1 with ***"
    kept = "postgresql://u:${DB_PASSWORD}@h/d http://localhost:8000/v1 to a@b.example"
    assert redacted(kept, {}) == kept
    assert redacted(redacted(text, {}), {}) == redacted(text, {})


@pytest.mark.usefixtures("planted")
def test_no_secret_is_in_any_file_or_line_of_a_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "shared.db"
    storage = f"sqlite:///file:{database}?uri=true&token=${{DB_PASSWORD}}"
    text = STUDY.replace("SAMPLER", "random").replace("budget:", f"storage: '{storage}'\nbudget:")
    path = tmp_path / "study.yaml"
    path.write_text(text)
    leak = f"RuntimeError: {' '.join(VALUES)} in {SECRETS['DATABASE_URL']}"
    study = Study.create(load_study(path), path, tmp_path / "results", f"apportion run {leak}")
    for state in ("COMPLETE", "FAIL"):
        proposal = study.next()
        assert proposal is not None
        folder = study.folder.trial(proposal.number)
        folder.clear()
        record = played(proposal).model_copy(update={"state": state, "reason": leak})
        folder.write_record(record)
        folder.write_traceback(leak)
        study.finish(record)
    study.close(leak)
    write_report(study.folder.path)
    for words in (["status"], ["status", "--json"], ["show", "1"], ["show", "1", "--json"]):
        assert main([words[0], str(study.folder.path), *words[1:]]) == 0
    told = capsys.readouterr()
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert {each.name for each in files} >= {
        "report.html",
        "traceback.txt",
        "study.json",
        "shared.db",
    }
    artefacts = {str(each): each.read_bytes() for each in files} | {"printed": told.out.encode()}
    artefacts["errors"] = told.err.encode()
    for value in VALUES:
        for form in {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}:
            holders = [name for name, content in artefacts.items() if form.encode() in content]
            assert holders == [], value
    assert b"***" in (study.folder.path / "trials/0001/traceback.txt").read_bytes()
    assert "${DB_PASSWORD}" in study.folder.study_yaml.read_text()
    again = Study.open(study.folder.path, "apportion resume")
    assert again.spent().trials == 2
    again.close("ended")


@pytest.mark.usefixtures("planted")
def test_errors_of_a_storage_name_it_without_its_password(tmp_path: Path) -> None:
    url = database_url("postgresql://u:${DB_PASSWORD}@127.0.0.1:1/d", tmp_path / "x", tmp_path)
    assert "p%40ss%3Aw%2Frd%3F77" in url
    with pytest.raises(StudyError) as refused:
        open_study(url, "s", {"x": "maximise"}, create=True)
    assert not any(value in str(refused.value) for value in VALUES)
    assert "127.0.0.1:1/d" in str(refused.value)


def test_variable_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(
        StudyError, match="storage: environment variable NOT_SET_ANYWHERE is not set"
    ):
        database_url("postgresql://${NOT_SET_ANYWHERE}@h/d", tmp_path / "x", tmp_path)
    with pytest.raises(StudyError, match="NOT_SET_ANYWHERE is not set"):
        store_place("s3://${NOT_SET_ANYWHERE}/x", tmp_path)
    text = STUDY.replace("budget:", "storage: 'postgresql://${NOT_SET_ANYWHERE}@h/d'\nbudget:")
    assert main(["check", str(study_file(tmp_path, text=text))]) == 2


def test_folder_of_results_keeps_the_variable_of_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_PLACE", str(tmp_path / "there"))
    text = STUDY.replace("budget:", "store: {path: '${STORE_PLACE}'}\nbudget:")
    spec = load_study(study_file(tmp_path, text=text))
    assert spec.store.path == "${STORE_PLACE}"
    assert StudyFolder(tmp_path).store_root(spec, tmp_path) == str(tmp_path / "there")
