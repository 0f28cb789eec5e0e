"""Made clips are read as CREMA-D is: real files, the same for a seed, another face per emotion."""

import itertools
import sys

import numpy as np
import pytest

from mmlab.datasets import load
from mmlab.teaching import clips

SMALL = {"size": 32, "frames": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("av")
    pytest.importorskip("soundfile")
    root = tmp_path_factory.mktemp("clips")
    return root, clips.make_crema_d(root, actors=5, seed=3)


def test_the_folder_is_read_whole_and_both_lists_have_all_actors(made):
    root, names = made
    assert len(names) == 30 and names[0] == "1001_DFA_ANG_XX"
    data = load("crema-d", root=root, split="published", **SMALL)
    assert "all of 30 listed samples are there" in data.card
    assert "5 of 5 actors of the test are also in train or holdout" in data.card
    assert data.shape("audio") == (257, 188) and data.shape("visual") == (2, 3, 32, 32)


def test_a_seed_gives_the_same_files_and_another_one_others(made, tmp_path):
    root, names = made
    for seed, same in ((3, True), (4, False)):
        clips.make_crema_d(tmp_path / f"{seed}", actors=1, seed=seed)
        wav = f"AudioWAV/{names[0]}.wav"
        assert ((tmp_path / f"{seed}" / wav).read_bytes() == (root / wav).read_bytes()) is same


def test_voice_and_face_tell_the_emotion():
    """With the same actor and the same noise."""
    faces, voices = (
        [draw(emotion, 1001, np.random.default_rng(0)) for emotion in clips.MOUTHS]
        for draw in (clips.face, clips.voice)
    )
    for made in ([np.asarray(frames[-1], float) for frames in faces], voices):
        for one, other in itertools.combinations(made, 2):
            assert np.abs(one - other).max() > 0.1


def test_a_package_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"needs the package 'av'.*mmlab\[media\]"):
        clips.make_crema_d(tmp_path, actors=1)
