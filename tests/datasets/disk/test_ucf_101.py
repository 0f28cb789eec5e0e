"""UCF-101: pictures and flow, a folder with another name than its files, whole groups."""

import pytest
from making import make_picture, make_video, write
from training import apart, groups, trains, videos

from mmlab.datasets import load
from mmlab.datasets.disk.files import DamagedError

SMALL = {"size": 4, "frames": 2}
ACTIONS = {"Archery": "Archery", "HandstandPushups": "HandStandPushups"}
CLIPS = [
    (action, f"v_{name}_g{group:02d}_c0{clip}")
    for action, name in ACTIONS.items()
    for group in range(1, 9)
    for clip in (1, 2)
]


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "classInd.txt", "1 Archery\n2 HandstandPushups\n")
    test = [f"{action}/{clip}.avi" for action, clip in CLIPS if "g01" in clip]
    train = [f"{action}/{clip}.avi 1" for action, clip in CLIPS if "g01" not in clip]
    write(tmp_path / "testlist01.txt", "\r\n".join(test))
    write(tmp_path / "trainlist01.txt", "\r\n".join(train))
    for _, clip in CLIPS:
        for folder, name in (("visual", "frame_000001"), ("flow_u", "frame000001")):
            make_picture(tmp_path / folder / clip / f"{name}.jpg", 50)
        make_picture(tmp_path / "flow_v" / clip / "frame000001.jpg", 150)
    return tmp_path


def test_rgb_and_two_channels_of_flow(root):
    data = load("ucf-101", root=root, split="published", **SMALL)
    assert data.n_classes == 2 and len(data.test) == 4
    assert data.shape("rgb") == (2, 3, 4, 4) and data.shape("flow") == (2, 2, 4, 4)
    flow = data.test.head(1).inputs["flow"][0, 0].mean((1, 2))
    assert flow[0] < flow[1]
    assert {x.label for x in data.test.dataset.samples} == {0, 1}


def test_groups_are_never_split(root):
    for seed in range(3):
        data = load("ucf-101", root=root, seed=seed, **SMALL)
        assert apart(data) and "Archery g01" in set.union(*map(groups, data.splits.values()))
    published = load("ucf-101", root=root, split="published", **SMALL)
    assert apart(published) and "0 of 2 groups of the test" in published.card


def test_frames_called_as_the_folder_and_the_videos_themselves(root):
    """Files v_HandStandPushups… whose pictures are in v_HandstandPushups…"""
    for folder in ("visual", "flow_u", "flow_v"):
        for path in (root / folder).glob("v_HandStand*_g02_c01"):
            path.rename(path.with_name(path.name.replace("HandStand", "Handstand")))
    for path in (root / "visual").glob("*_g03_c01"):
        for picture in path.iterdir():
            picture.unlink()
        path.rmdir()
        action = "Archery" if "Archery" in path.name else "HandstandPushups"
        make_video(root / f"UCF-101/{action}/{path.name}.avi", [90] * 3, "mpeg4")
    data = load("ucf-101", root=root, **SMALL)
    assert "all of 32 listed samples are there" in data.card
    assert sum(len(split.head(40)) for split in data.splits.values()) == 32


def test_half_of_the_flow_is_missing(root):
    picture = root / f"flow_v/{CLIPS[0][1]}/frame000001.jpg"
    picture.unlink()
    card = load("ucf-101", root=root, **SMALL).card
    assert f"left out: {CLIPS[0][1]} (flow: {picture.parent} is an empty folder)" in card


def test_wrong_lists_and_settings(root):
    with pytest.raises(ValueError, match="fold is 4; the published lists are of the folds 1, 2"):
        load("ucf-101", root=root, fold=4)
    with pytest.raises(FileNotFoundError, match=r"no trainlist02\.txt"):
        load("ucf-101", root=root, fold=2)
    write(root / "testlist01.txt", "Juggling/v_Juggling_g01_c01.avi")
    with pytest.raises(DamagedError, match=r"names 'Juggling/v_Juggling_g01_c01\.avi'"):
        load("ucf-101", root=root)


def flows():
    return videos(2)


def test_it_trains(root):
    trains(load("ucf-101", root=root, **SMALL), {"rgb": videos, "flow": flows})
