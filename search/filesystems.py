"""Which file system a path lies on: SQLite loses data where locks do not hold between machines."""

from __future__ import annotations

import os
from pathlib import Path

NETWORK = frozenset(
    {
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.ceph-fuse",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.goofys",
        "fuse.juicefs",
        "fuse.mountpoint-s3",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "orangefs",
        "pvfs2",
        "smb3",
        "smbfs",
        "wekafs",
    }
)
"""Types, as Linux names them, that other machines mount too."""
MOUNTS = Path("/proc/self/mounts")


def network_filesystem(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the type of the network file system that a path lies on; None if it lies on none, or nobody says.

    Args:
        path: It need not exist.
        mounts: What is mounted where, as proc(5) describes it.
    """
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    place = os.path.realpath(path)
    found, longest = "", -1
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # Spaces, tabs, newlines and backslashes are written in octal.
        point = fields[1].encode().decode("unicode_escape", errors="replace")
        is_below = point == "/" or place == point or place.startswith(point.rstrip("/") + "/")
        # Of two at one place the later one is on top.
        if is_below and len(point) >= longest:
            found, longest = fields[2], len(point)
    return found if found in NETWORK else None
