"""The papers' data sets, read from a user's folder: `load("crema-d", root=FOLDER)`.

A file per set says where its files are; `DiskSet` is what all of them share.
"""

from __future__ import annotations

from mmlab.datasets.disk.av_mnist import load_av_mnist
from mmlab.datasets.disk.ave import load_ave
from mmlab.datasets.disk.cmu_mosei import load_cmu_mosei
from mmlab.datasets.disk.cmu_mosi import load_cmu_mosi
from mmlab.datasets.disk.crema_d import load_crema_d
from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.food_101 import load_food_101
from mmlab.datasets.disk.iemocap import load_iemocap
from mmlab.datasets.disk.kinetics_sounds import load_kinetics_sounds
from mmlab.datasets.disk.mvsa_single import load_mvsa_single
from mmlab.datasets.disk.nvgesture import load_nvgesture
from mmlab.datasets.disk.ucf_101 import load_ucf_101
from mmlab.datasets.disk.vggsound import load_vggsound

DISK_SETS: dict[str, DiskSet] = {
    one.name: one
    for one in (
        load_crema_d,
        load_kinetics_sounds,
        load_vggsound,
        load_ave,
        load_cmu_mosi,
        load_cmu_mosei,
        load_iemocap,
        load_food_101,
        load_mvsa_single,
        load_ucf_101,
        load_av_mnist,
        load_nvgesture,
    )
}
