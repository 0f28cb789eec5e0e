"""The papers' data sets, read from a user's folder: `load("crema-d", root=FOLDER)`.

A file per set says where its files are; `DiskSet` is what all of them share.
"""

from __future__ import annotations

from mmlab.datasets.disk.crema_d import load_crema_d
from mmlab.datasets.disk.disk_set import DiskSet

DISK_SETS: dict[str, DiskSet] = {one.name: one for one in (load_crema_d,)}
