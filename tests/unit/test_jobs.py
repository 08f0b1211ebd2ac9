"""Jobs on a cluster: what is shipped, what is run, how its end comes back. No Ray."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
from played import STUDY, study_file

from search.cli.main import main
from search.errors import StudyError
from search.runner import jobs


class Cluster:
    """Plays a job: what it has printed, and its state, from one look to the next."""

    def __init__(self, *looks: tuple[str, str, int | None]) -> None:
        self.looks = list(looks)
        self.n_away = 0

    def get_job_info(self, job: str) -> Any:
        if self.n_away:
            self.n_away -= 1
            raise ConnectionError("port-forward lost")
        _, status, code = self.looks[0]
        return SimpleNamespace(status=status, message="gone", driver_exit_code=code)

    def get_job_logs(self, job: str) -> str:
        text = self.looks[0][0]
        if len(self.looks) > 1:
            self.looks.pop(0)
        return text

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any]) -> str:
        raise RuntimeError("Package size (700 MiB) exceeds the maximum size of 512 MiB.\n")


def followed(cluster: Cluster) -> tuple[int, str]:
    said: list[str] = []
    code = jobs.follow(cluster, "job", said.append, sleep=lambda seconds: None)
    return code, "".join(said)


def test_each_line_of_a_job_is_printed_once_and_its_exit_code_passed_on() -> None:
    done = Cluster(
        ("a\n", "RUNNING", None), ("a\nb\n", "RUNNING", None), ("a\nb\nc\n", "SUCCEEDED", 0)
    )
    assert followed(done) == (0, "a\nb\nc\n")
    assert followed(Cluster(("a\n", "RUNNING", None), ("a\nb\n", "FAILED", 2))) == (2, "a\nb\n")
    assert followed(Cluster(("", "STOPPED", None))) == (130, "")
    assert followed(Cluster(("", "FAILED", None))) == (1, "gone\n")


@pytest.mark.parametrize(("code", "expected"), [(2, 2), (None, 1), (0, 1), (-9, 137), (127, 127)])
def test_failed_job_never_ends_with_zero(code: int | None, expected: int) -> None:
    assert jobs.exit_code(code) == expected


def test_cluster_that_is_away_for_a_moment_is_waited_for_and_not_for_ever() -> None:
    cluster = Cluster(("a\n", "SUCCEEDED", 0))
    cluster.n_away = 5
    assert followed(cluster) == (0, "a\n")
    cluster.n_away = 10_000
    with pytest.raises(StudyError, match=r"job job cannot be followed \(port-forward lost\)"):
        followed(cluster)


def test_folder_that_is_too_large_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"exceeds the maximum size.*--exclude"):
        jobs.hand_in(Cluster(), "run", tmp_path, ())


def test_this_folder_is_shipped_if_the_study_is_in_it_else_the_studys(tmp_path: Path) -> None:
    study = tmp_path / "one/study.yaml"
    assert jobs.shipped(study, None, tmp_path) == (tmp_path, PurePosixPath("one/study.yaml"))
    elsewhere = Path("/somewhere")
    assert jobs.shipped(study, None, elsewhere) == (tmp_path / "one", PurePosixPath("study.yaml"))
    with pytest.raises(StudyError, match="give a --working-dir that holds the study"):
        jobs.shipped(study, elsewhere, tmp_path)


def test_command_goes_on_with_a_study_that_was_begun_and_quotes_names() -> None:
    command = jobs.entrypoint("/opt/my python", PurePosixPath("a b/study.yaml"), "/shared/r")
    assert command == (
        "'/opt/my python' -m search.cli.main run 'a b/study.yaml' --or-resume --address auto --results /shared/r"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give a STUDY, or --attach"),
        (("study.yaml", "--attach", "job"), "give a STUDY, or --attach"),
        (("study.yaml",), "--results: name a folder on the cluster"),
        (("study.yaml", "--results", "results"), "--results: name a folder on the cluster"),
        (("--attach", "job", "--address", "10.0.0.1:8265"), "is no place for jobs"),
        (
            ("--attach", "job", "--address", "http://127.0.0.1:1"),
            "nothing answers at http://127.0.0.1:1",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_cluster_without_tokens_is_refused_but_behind_a_tunnel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(jobs, "_asks_for_token", lambda url: False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(StudyError, match="asks nobody for a token"):
        jobs.connect_to_jobs("http://10.0.0.1:8265", False, tmp_path)
    monkeypatch.setattr(jobs, "_asks_for_token", lambda url: True)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with pytest.raises(StudyError, match="asks for a token; set RAY_AUTH_TOKEN"):
        jobs.connect_to_jobs("http://127.0.0.1:8265", False, tmp_path)


def test_study_handed_in_again_goes_on_with_its_data_where_they_are_now(tmp_path: Path) -> None:
    from search.cli.run import _gone_on
    from search.errors import SpecError
    from search.study import Study
    from search.yaml_file import load_study

    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    path = study_file(first)
    Study.create(load_study(path), path, tmp_path / "results", "apportion run").close("killed")
    shutil.move(first, second)
    study = _gone_on(tmp_path / "results/played", second / "study.yaml")
    assert study.root == second
    study.close("done")
    assert Study.open(tmp_path / "results/played", "apportion resume").root == second
    study_file(second, text=STUDY.replace("trials: 8", "trials: 9"))
    with pytest.raises(SpecError, match="differs from the study that was begun"):
        _gone_on(tmp_path / "results/played", second / "study.yaml")
