"""NVGesture: gestures cut out of longer videos, by lists with fields."""

import pytest
from making import make_video, write
from training import apart, trains, videos

from mmlab.datasets import load
from mmlab.datasets.disk.files import DamagedError

SMALL = {"size": 4, "frames": 2}
LINE = (
    "path:./Video_data/class_{label:02d}/subject{person}_r0 depth:sk_depth:2:6 color:sk_color:2:6 "
    "duo_left:duo_left:2:6 label:{label}"
)
PARTS = {"train": range(1, 9), "valid": (9,), "test": (10, 11, 1)}


@pytest.fixture
def root(tmp_path):
    for part, people in PARTS.items():
        labels = (25,) if part == "test" else (1, 2)
        lines = [LINE.format(label=label, person=x) for x in people for label in labels]
        write(tmp_path / f"nvgesture_{part}_correct_v2.lst", "\n".join(lines))
        for x in people:
            for label in labels:
                folder = tmp_path / f"Video_data/class_{label:02d}/subject{x}_r0"
                make_video(folder / "sk_color.avi", [0, 0, 200, 200, 100, 100, 0, 0], "mpeg4")
                make_video(folder / "sk_depth.avi", [0, 0, 50, 50, 250, 250, 0, 0], "mpeg4")
    return tmp_path


def test_gestures_are_cut_out(root):
    data = load("nvgesture", root=root, split="published", **SMALL)
    assert [len(split) for split in data.splits.values()] == [16, 2, 3] and data.n_classes == 25
    assert data.shape("color") == (2, 3, 4, 4) and data.shape("depth") == (2, 1, 4, 4)
    batch = data.test.head(1)
    assert batch.target.item() == 24  # numbered from 1 in the list
    color, depth = (batch.inputs[m][0].mean((1, 2, 3)) for m in data.modalities)
    assert color[0] > color[1] and depth[0] < depth[1]


def test_people_on_both_sides_are_counted_and_parted_in_the_clean_split(root):
    published = load("nvgesture", root=root, split="published", **SMALL)
    assert "1 of 3 subjects of the test are also in train or holdout" in published.card
    assert apart(load("nvgesture", root=root, **SMALL))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label:1", "label:26", "the label is 26"),
        ("color:", "colour:", "'color'"),
        (":2:6", ":2", ""),
    ],
)
def test_wrong_lines_are_named(root, old, new, message):
    path = root / "nvgesture_train_correct_v2.lst"
    write(path, path.read_text().replace(old, new))
    with pytest.raises(DamagedError, match=rf"correct_v2\.lst, line 1: .*{message}.*label: from 1"):
        load("nvgesture", root=root)


def depths():
    return videos(1)


def test_no_gesture_is_mirrored(root):
    data = load("nvgesture", root=root, split="published", **SMALL)
    assert {m: f.mirror for m, f in data.augment.items()} == {"color": False, "depth": False}


def test_it_trains(root):
    data = load("nvgesture", root=root, split="published", **SMALL)
    trains(data, {"color": videos, "depth": depths})
