"""Trackers: TensorBoard's files read back, classes of the user's own, and a tracker that fails stops nothing."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from own_tracker import Mine
from played import STUDY, new_study, play, study_file
from tensorboardX.proto.event_pb2 import Event

from search.callback_spec import CallbackSpec
from search.errors import SpecError
from search.runner.trackers import open_trackers
from search.yaml_file import load_study


def events(folder: Path) -> list[Event]:
    """Read a TensorBoard file: length (8 bytes), checksum (4), event, checksum (4), and so on."""
    (path,) = folder.glob("events.*")
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_tensorboard_reads_scores_by_boundary_and_params(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    play(study, 3)
    record = study.folder.trial(2).read_record()
    assert record is not None
    spec = CallbackSpec(name="tensorboard", folder="runs")
    trackers = open_trackers([spec], "played", study.folder.path, tmp_path, print)
    trackers.scored(record)
    trackers.ended(record)
    trackers.close()
    study.close("ended")
    values = [
        (value.tag, event.step, value.simple_value)
        for event in events(tmp_path / "runs/played/trial-0002")
        for value in event.summary.value
    ]
    scores = {score.name: score.value for score in record.boundaries[0].scores}
    for name in ("form", "retention.kl"):
        assert (name, 0, pytest.approx(scores[name])) in values
    tags = [tag for tag, _, _ in values]
    assert any("hparams" in tag for tag in tags)


def test_tracker_of_ones_own_is_told_and_one_that_fails_is_told_no_more(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    play(study, 1)
    record = study.folder.trial(0).read_record()
    assert record is not None
    said: list[str] = []
    for fails in (False, True):
        options = {"mark": "m", "fails": fails}
        spec = CallbackSpec(name="own_tracker:Mine", options=options)
        trackers = open_trackers([spec], "played", study.folder.path, tmp_path, said.append)
        trackers.scored(record)
        trackers.ended(record)
        trackers.close()
        whole = ["played", "m", ("scored", 0), ("ended", 0), "closed"]
        assert Mine.told == (whole[:2] if fails else whole)
    study.close("ended")
    (line,) = said
    assert "Mine failed and is told no more: ConnectionError: the server is away" in line


def test_tracker_that_cannot_be_made_is_refused_with_its_place(tmp_path: Path) -> None:
    spec = CallbackSpec(name="nowhere.at.all:Mine")
    with pytest.raises(SpecError, match=r"callbacks\[0\]: nowhere.at.all:Mine cannot be made"):
        open_trackers([spec], "played", tmp_path, tmp_path, print)
    text = STUDY.replace("budget:", "callbacks: [{name: tensorbord}]\nbudget:")
    with pytest.raises(SpecError, match=r"callbacks\[0\]\.name"):
        load_study(study_file(tmp_path, text=text))
