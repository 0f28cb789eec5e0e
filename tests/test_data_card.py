"""`python3 -m mmlab data NAME` prints what a data set holds."""

import re
import sys

import numpy as np
import pytest
from PIL import Image

from mmlab import __main__ as bootstrap
from mmlab import data_card

CLIPS = [f"10{actor:02d}_DFA_{emotion}_XX" for actor in range(1, 9) for emotion in ("ANG", "SAD")]


@pytest.fixture
def root(tmp_path):
    """CREMA-D as pictures and spectrograms, of which three clips lack one."""
    (tmp_path / "train.csv").write_text("\n".join(f"{clip},ANG" for clip in CLIPS[4:]))
    (tmp_path / "test.csv").write_text("\n".join(f"{clip},ANG" for clip in CLIPS[:4]))
    (tmp_path / "audio").mkdir()
    for clip in CLIPS:
        folder = tmp_path / "Image-01-FPS" / clip
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "00000.jpg")
        if clip not in CLIPS[:3]:
            np.save(tmp_path / f"audio/{clip}.npy", np.ones((8, 4), np.float32))
    return tmp_path


def card(capsys, *words):
    data_card.main([str(word) for word in words])
    return capsys.readouterr().out


def test_a_folder_is_checked_and_described(root, capsys):
    said = card(capsys, "crema-d", "--root", root, "split=published", "most_missing=0.5", "size=4")
    assert said.startswith("crema-d: classification, 6 classes\nsamples: train ")
    assert f"3 of 16 listed samples (18.8%) are left out: {CLIPS[0]} (audio: " in said
    assert "1 of 1 actors" not in said and "0 of 1 actors of the test are also in train" in said
    assert "classes (of the list, 6): ANG, DIS" in said
    assert re.search(r"example: 10\d\d_DFA_(ANG|SAD)_XX, the first of train, target [05] \(", said)
    assert re.search(r"  audio: 8 x 4, 1 to 1\n  visual: 3 x 3 x 4 x 4, -2\.\S+ to -1\.\d+", said)
    assert re.search(r"reading: \d+ samples in \S+ s of one core, \S+ per s\n$", said)


def test_everything_that_is_left_out_is_named_on_request(root, capsys):
    words = ("crema-d", "--root", root, "most_missing=0.5", "size=4")
    assert "left out:\n" not in card(capsys, *words)
    assert re.search(
        r"left out:\n(  \S+: audio: .* is missing\n){3}$", card(capsys, *words, "--all")
    )


def test_embedded_data_have_a_card_too(capsys):
    said = card(capsys, "synthetic")
    assert said.startswith("synthetic: ") and "example: the first of train, target" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["crema-d"], "give the folder with its files"),
        (["crema"], "did you mean 'crema-d'"),
        (["crema-d", "--root", "nowhere"], "is no folder"),
        (["crema-d", "split"], "'split' is no setting"),
    ],
)
def test_what_is_wrong_ends_with_a_message(words, message, capsys):
    with pytest.raises(SystemExit):
        data_card.main(words)
    assert message in capsys.readouterr().err


def test_it_is_a_command_of_the_project(tmp_path):
    line = bootstrap.command_line("data", sys.executable, ["av-digits"], tmp_path)
    assert line == [sys.executable, "-m", "mmlab.data_card", "av-digits"]
