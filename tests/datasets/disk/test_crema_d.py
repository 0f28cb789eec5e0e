"""CREMA-D in each layout in use, with missing, damaged and unfetched files."""

import re
import shutil

import pytest
import torch
from making import POINTER, make_array, make_picture, make_video, make_wav, write
from training import FIVE, apart, groups, spectrograms, trains, videos

from mmlab.datasets import load
from mmlab.datasets.disk.crema_d import EMOTIONS
from mmlab.datasets.disk.files import DamagedError

CLIPS = [f"{actor}_DFA_{emotion}_XX" for actor in range(1001, 1011) for emotion in EMOTIONS]
TEST = CLIPS[::4]
SMALL = {"size": 8, "frames": 2}


def emotion_of(clip):
    return clip.split("_")[2]


def make_lists(root):
    """All actors on both sides, as in the published lists; with a byte order mark."""
    for name, clips in (("train", [x for x in CLIPS if x not in TEST]), ("test", TEST)):
        lines = [f"{clip},{emotion_of(clip)}" for clip in clips]
        write(root / f"{name}.csv", "\n".join(lines), "utf-8-sig")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The official layout, and the lists."""
    root = tmp_path_factory.mktemp("crema-d")
    make_lists(root)
    for clip in CLIPS:
        number = EMOTIONS.index(emotion_of(clip))
        make_wav(root / f"AudioWAV/{clip}.wav", 200 + 300 * number)
        make_video(root / f"VideoFlash/{clip}.flv", [40 * number] * 4, "flv1")
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(made, tmp_path / "root")


def test_voice_and_face_are_decoded(made):
    data = load("crema-d", root=made, **SMALL)
    assert data.n_classes == 6 and data.shape("audio") == (257, 188)
    assert data.shape("visual") == (2, 3, 8, 8) and set(data.units) == {"audio", "visual"}
    batch = data.test.head(6)
    light = batch.inputs["visual"].mean((1, 2, 3, 4))
    pitch = batch.inputs["audio"].mean(2).argmax(1)
    assert torch.equal(light.argsort(), batch.target.argsort())
    assert torch.equal(pitch.argsort(), batch.target.argsort())


def test_the_clean_split_parts_the_actors_and_the_published_one_says_that_it_does_not(made):
    clean = load("crema-d", root=made)
    assert apart(clean)
    assert "0 of 2 actors of the test are also in train or holdout" in clean.card
    published = load("crema-d", root=made, split="published", seed=1)
    assert {sample.name for sample in published.test.dataset.samples} == set(TEST)
    assert not groups(published.train) & groups(published.holdout)
    assert "10 of 10 actors of the test are also in train or holdout" in published.card


def test_missing_files_are_counted_and_named_up_to_a_limit(root):
    for clip in CLIPS[:3]:  # 5 %
        (root / f"AudioWAV/{clip}.wav").unlink()
    data = load("crema-d", root=root)
    assert "3 of 60 listed samples (5.0%) are left out: " in data.card
    for clip in CLIPS[:3]:
        assert re.search(rf"{clip} \(audio: \S+AudioWAV/{clip}\.wav is missing\)", data.card)
    assert sum(map(len, data.splits.values())) == 57
    assert len(load("crema-d", root=root, most_missing=0.05).test)  # as much as is allowed
    with pytest.raises(ValueError, match=r"3 of 60 .*most_missing=0\.06 \(it is 0\.04\)"):
        load("crema-d", root=root, most_missing=0.04)


@pytest.mark.parametrize(
    ("content", "why"),
    [(POINTER, "Git LFS pointer"), (b"", "empty file"), (b"<!DOCTYPE html>", "web page")],
)
def test_what_was_not_fetched_is_recognised(root, content, why):
    (root / f"VideoFlash/{CLIPS[1]}.flv").write_bytes(content)
    data = load("crema-d", root=root)
    assert f"1 of 60 listed samples (1.7%) are left out: {CLIPS[1]} (visual: " in data.card
    assert why in data.card


def test_a_damaged_file_is_an_error_when_it_is_read_and_left_out_with_a_cache(root, tmp_path):
    bad = root / f"AudioWAV/{CLIPS[7]}.wav"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(DamagedError, match=rf"{bad.name} cannot be read.*cache=FOLDER"):
        for split in load("crema-d", root=root, **SMALL).splits.values():
            split.head(60)
    kept = load("crema-d", root=root, cache=tmp_path / "cache", **SMALL)
    assert sum(map(len, kept.splits.values())) == 59
    assert f"1 of 60 listed samples (1.7%) are left out: {CLIPS[7]} (audio: " in kept.card


def test_lists_of_two_kinds_do_not_list_a_clip_twice_and_one_alone_is_refused(root):
    for part in ("train", "test"):
        write(root / f"my_{part}_cre.txt", "\n".join(f"{clip}.flv Anger" for clip in CLIPS))
    published = load("crema-d", root=root, split="published")
    assert sum(map(len, published.splits.values())) == 60
    (root / "test.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no test\.csv; fetch all"):
        load("crema-d", root=root)


def test_an_unfetched_list_says_so(root):
    (root / "train.csv").write_bytes(POINTER)
    with pytest.raises(DamagedError, match=r"list .*train\.csv is a Git LFS pointer"):
        load("crema-d", root=root)


def test_the_official_table_is_enough_for_the_clean_split(root):
    for name in ("train.csv", "test.csv"):
        (root / name).unlink()
    table = ['"","FileName","VoiceVote"', *(f'"{i}","{x}","A"' for i, x in enumerate(CLIPS))]
    write(root / "processedResults/summaryTable.csv", "\n".join(table))
    assert sum(map(len, load("crema-d", root=root).splits.values())) == 60
    with pytest.raises(ValueError, match="split='published' leaves no sample"):
        load("crema-d", root=root, split="published")


def test_frames_in_folders_with_spectrograms_of_mla(tmp_path):
    """Few frames per clip, in an order that the names tell, and MLA's lists."""
    for part, clips in (("train", CLIPS[:42]), ("test", CLIPS[42:])):
        lines = [f"{clip}.flv Anger" for clip in clips]
        write(tmp_path / f"my_{part}_cre.txt", "\n".join(lines))
        for clip in clips:
            folder = tmp_path / f"visual/Image-01-FPS/{clip}"
            make_picture(folder / "00000.jpg", 0)
            make_picture(folder / "00029.jpg", 255)
            shape = (1024, 128)
            make_array(tmp_path / f"audio/{part}_fbank/{clip}.npy", torch.ones(shape).numpy())
    data = load("crema-d", root=tmp_path, split="published", size=4, frames=3, sound="mla")
    batch = data.test.head(1)
    assert batch.inputs["audio"].shape == (1, 1024, 128) and (batch.inputs["audio"] == 1).all()
    light = batch.inputs["visual"].mean((2, 3, 4))
    assert light[0, 0] < light[0, 1] == light[0, 2]  # the second frame comes again


def test_one_frame_is_enough(made):
    data = load("crema-d", root=made, frames=1, size=1)
    assert data.shape("visual") == (1, 3, 1, 1)


def test_wrong_settings_are_refused(made):
    with pytest.raises(ValueError, match=r"crema-d does not come with the library.*root=FOLDER"):
        load("crema-d")
    with pytest.raises(FileNotFoundError, match=r"root='nowhere' is no folder"):
        load("crema-d", root="nowhere")
    with pytest.raises(FileNotFoundError, match=r"no train\.csv or .*summaryTable\.csv"):
        load("crema-d", root=made / "AudioWAV")
    with pytest.raises(ValueError, match=r"unknown split 'speakers'.*'speaker'\?"):
        load("crema-d", root=made, split="speakers")
    with pytest.raises(TypeError, match=r"no option 'frame'.*'frames'\?"):
        load("crema-d", root=made, frame=3)
    with pytest.raises(ValueError, match=r"sound is 'ogm'; allowed are 'ogm-ge', 'pmr'"):
        load("crema-d", root=made, sound="ogm")
    with pytest.raises(ValueError, match=r"most_missing is 5; allowed"):
        load("crema-d", root=made, most_missing=5)


def test_a_list_with_a_strange_clip_is_refused(root):
    write(root / "test.csv", "1001_DFA_FOO_XX,FOO")
    with pytest.raises(DamagedError, match=r"test\.csv names the class 'FOO'; allowed are ANG"):
        load("crema-d", root=root)
    write(root / "test.csv", "holiday,ANG")
    with pytest.raises(DamagedError, match=r"'holiday'; a clip is called such as"):
        load("crema-d", root=root)


def test_all_five_methods_train_on_it(made, tmp_path):
    data = load("crema-d", root=made, cache=tmp_path, **SMALL)
    trains(data, {"audio": spectrograms, "visual": videos}, FIVE)
