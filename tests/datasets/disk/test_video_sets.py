"""Kinetics-Sounds, VGGSound and AVE: videos from YouTube, their pictures and their sound."""

import pickle

import numpy as np
import pytest
from making import make_array, make_picture, make_video, make_wav, write
from training import apart, spectrograms, trains, videos

from mmlab.datasets import load
from mmlab.datasets.disk.files import DamagedError

SMALL = {"size": 4, "frames": 2}
IDS = [f"abcdefgh{i:03d}" for i in range(20)]


def picture_folder(path, count=1):
    for number in range(count):
        make_picture(path / f"frame_0000{number + 1}.jpg", 20 * number)


# --- Kinetics-Sounds ------------------------------------------------------------------------------


def kinetics(root, separator=",", label=lambda i: str(i % 3)):
    """OGM-GE's layout: train and test have names of two forms."""
    parts = {
        "train": [f"{x}_000058_000068" for x in IDS[:15]],
        "test": [f"{x}_7" for x in IDS[15:]],
    }
    for part, names in parts.items():
        rows = [separator.join([x, "10", label(IDS.index(x[:11]))]) for x in names]
        write(root / f"my_{part}.txt", "\n".join(rows))
        for name in names:
            picture_folder(root / f"visual/{name}", 3)
            write(root / f"audio_spec/{name}.pkl", pickle.dumps(np.ones((8, 4)), 2))
    return root


@pytest.mark.parametrize("separator", [",", " "])
def test_kinetics_sounds_of_both_forms_of_names(tmp_path, separator):
    data = load("kinetics-sounds", root=kinetics(tmp_path, separator), split="published", **SMALL)
    assert data.n_classes == 3 and len(data.test) == 5 and data.shape("audio") == (8, 4)
    assert data.test.dataset.samples[0].group == IDS[15]
    assert "classes (of the list, 3): 0, 1, 2" in data.card
    assert apart(load("kinetics-sounds", root=tmp_path, **SMALL))


def test_a_video_on_both_sides_is_counted(tmp_path):
    kinetics(tmp_path)
    with (tmp_path / "my_test.txt").open("a") as file:
        file.write(f"\n{IDS[0]}_000099_000109,10,1")
    card = load("kinetics-sounds", root=tmp_path, split="published", most_missing=0.5, **SMALL).card
    assert "1 of 21 listed samples" in card  # its files are not there
    picture_folder(tmp_path / f"visual/{IDS[0]}_000099_000109")
    write(tmp_path / f"audio_spec/{IDS[0]}_000099_000109.pkl", pickle.dumps(np.ones((8, 4))))
    card = load("kinetics-sounds", root=tmp_path, split="published", **SMALL).card
    assert "1 of 6 videos of the test are also in train or holdout" in card


def test_the_number_of_classes_is_the_lists(tmp_path):
    kinetics(tmp_path, label=lambda i: str(i + 11))  # 11 to 30, and none below
    data = load("kinetics-sounds", root=tmp_path, **SMALL)
    assert data.n_classes == 20 and "classes (of the list, 20): 11, 12, 13" in data.card
    write(tmp_path / "stat_ks.txt", "\n".join(f"class {i} > 9 > 1" for i in range(31)))
    assert "20): class 11, class 12" in load("kinetics-sounds", root=tmp_path, **SMALL).card


def test_kinetics_sounds_of_igm_has_a_holdout_and_names(tmp_path):
    for part, ids in (("train", IDS[:12]), ("valid", IDS[12:15]), ("test", IDS[15:])):
        rows = [f"{x}_1,{('bowling', 'tap dancing')[i % 2]}" for i, x in enumerate(ids)]
        write(tmp_path / f"annotations/{part}.csv", "\n".join(rows))
        for x in ids:
            make_wav(tmp_path / f"{part}_wav/{x}_1.wav", seconds=0.2)
            picture_folder(tmp_path / f"{part}_img/Image-01-FPS/{x}_1")
    data = load("kinetics-sounds", root=tmp_path, split="published", **SMALL)
    assert [len(split) for split in data.splits.values()] == [12, 3, 5]
    assert "2): bowling, tap dancing" in data.card


def test_kinetics_sounds_trains(tmp_path):
    data = load("kinetics-sounds", root=kinetics(tmp_path), **SMALL)
    trains(data, {"audio": spectrograms, "visual": videos})


def test_a_line_without_a_label_is_named(tmp_path):
    write(tmp_path / "my_train.txt", "a,10,1\nb")
    write(tmp_path / "my_test.txt", "c,10,1")
    with pytest.raises(DamagedError, match=r"my_train\.txt, line 2: 'b' is no `NAME,…,LABEL`"):
        load("kinetics-sounds", root=tmp_path)


# --- VGGSound -------------------------------------------------------------------------------------

LABELS = ("people eating, crisps", "dog barking", "zebra braying")


def vggsound(root):
    rows = [
        f'{x},{i + 3},"{LABELS[i % 3]}",{"test" if i > 14 else "train"}' for i, x in enumerate(IDS)
    ]
    write(root / "vggsound.csv", "\n".join(rows))


def test_vggsound_of_ogm_ge_has_folders_called_as_videos(tmp_path):
    vggsound(tmp_path)
    for i, x in enumerate(IDS):
        part = "test" if i > 14 else "train"
        make_wav(tmp_path / f"{part}-audios/{part}-set/{x}_{i + 3}.wav", 200 + 100 * i, 6)
        folder = f"{part}-videos/{part}-set-img/Image-01-FPS/{x}_{i + 3}.mp4"
        picture_folder(tmp_path / folder, 2)
    data = load("vggsound", root=tmp_path, split="published", **SMALL)
    assert data.shape("audio") == (129, 626) and len(data.test) == 5
    assert "3): dog barking, people eating, crisps, zebra braying" in data.card
    assert data.test.dataset.samples[0].label == 1  # number 15 is the first label


def test_vggsounds_own_videos_have_zeros_in_their_names(tmp_path):
    vggsound(tmp_path)
    for i, x in enumerate(IDS[:-1]):
        make_video(tmp_path / f"video/{x}_{i + 3:06d}.mp4", [10 * i] * 3, "mpeg4", 300 + 100 * i)
    data = load("vggsound", root=tmp_path, **SMALL)
    assert sum(map(len, data.splits.values())) == 19 and apart(data)
    assert f"1 of 20 listed samples (5.0%) are left out: {IDS[-1]}_22 (audio: " in data.card
    trains(data, {"audio": spectrograms, "visual": videos})


def test_classes_do_not_depend_on_what_is_missing(tmp_path):
    vggsound(tmp_path)
    for i, x in enumerate(IDS):
        if i % 3:  # no crisps
            picture_folder(tmp_path / f"visual/{x}_{i + 3}")
            make_array(tmp_path / f"audio/{x}_{i + 3}.npy", np.ones((8, 4)))
    data = load("vggsound", root=tmp_path, most_missing=0.5, **SMALL)
    assert data.n_classes == 3
    assert {x.label for split in data.splits.values() for x in split.dataset.samples} == {0, 2}


def test_a_row_of_vggsound_that_is_none_is_named(tmp_path):
    write(tmp_path / "vggsound.csv", "abc,30,dog barking,valid")
    with pytest.raises(DamagedError, match=r"vggsound\.csv has the row .*'valid'"):
        load("vggsound", root=tmp_path)


# --- AVE ------------------------------------------------------------------------------------------


@pytest.fixture
def ave(tmp_path):
    parts = {"train": IDS[:12], "val": IDS[12:15], "test": IDS[15:]}
    for part, ids in parts.items():
        lines = [f"{('Bus', 'Horse')[i % 2]}&{x}&good&0&10" for i, x in enumerate(ids)]
        write(tmp_path / f"{part}Set.txt", "\n".join([*lines, f"Clock&{ids[0]}&good&3&5"]))
        for i, x in enumerate(ids):
            make_video(tmp_path / f"AVE/{x}.mp4", [10 * i] * 3, "mpeg4", 300 + 100 * i)
    return tmp_path


def test_of_several_lines_of_a_video_the_first_counts(ave):
    data = load("ave", root=ave, split="published", sound="ogm-ge", **SMALL)
    assert [len(split) for split in data.splits.values()] == [12, 3, 5]
    assert "3 further lines of videos that have one are left out" in data.card
    assert "classes (of the list, 2): Bus, Horse" in data.card
    trains(data, {"audio": spectrograms, "visual": videos})


def test_ave_of_pmr_has_pictures_and_spectrograms(ave):
    for x in IDS:
        picture_folder(ave / f"Image-01-FPS-SE/{x}")
        write(ave / f"Audio-1004-SE/{x}.pkl", pickle.dumps(np.ones((8, 4)), 2))
    data = load("ave", root=ave, **SMALL)
    assert data.shape("audio") == (8, 4) and apart(data)
