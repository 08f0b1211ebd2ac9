"""Where SQLite would lose data is known by what is mounted."""

from __future__ import annotations

from pathlib import Path

import pytest

from search import storage
from search.errors import StudyError
from search.filesystems import network_filesystem

MOUNTS = r"""/dev/sda1 / ext4 rw 0 0
server:/export /shared nfs4 rw 0 0
/dev/sdb1 /shared/local xfs rw 0 0
//server/two /my\040files cifs rw 0 0
me@host: /remote fuse.sshfs rw 0 0
overlay /layers fuse.fuse-overlayfs rw 0 0
server:/late /shared/local/late nfs rw 0 0
tmpfs /shared/local/late tmpfs rw 0 0
broken
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/here/study.db", None),
        ("/shared/results/study.db", "nfs4"),
        ("/shared", "nfs4"),
        ("/sharedness/study.db", None),
        ("/shared/local/study.db", None),
        ("/my files/study.db", "cifs"),
        ("/remote/study.db", "fuse.sshfs"),
        ("/layers/study.db", None),
        ("/shared/local/late/study.db", None),  # mounted over
    ],
)
def test_path_lies_on_what_is_mounted_nearest_to_it(
    tmp_path: Path, path: str, expected: str | None
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert network_filesystem(Path(path), mounts) == expected


def test_where_nobody_says_what_is_mounted_nothing_is_refused(tmp_path: Path) -> None:
    assert network_filesystem(tmp_path, tmp_path / "missing") is None


def test_sqlite_on_a_network_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "network_filesystem", lambda path: "nfs4")
    url = storage.database_url(None, tmp_path / "study.db", tmp_path)
    with pytest.raises(StudyError, match=r"network file system \(nfs4\).* PostgreSQL url"):
        storage.open_study(url, "s", {"x": "maximise"}, create=True)
    assert list(tmp_path.iterdir()) == []
