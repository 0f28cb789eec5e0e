"""IEMOCAP: labels and transcripts of turns, four classes, sessions left out."""

import pytest
from making import make_wav, write
from training import groups, spectrograms, texts, trains

from mmlab.datasets import load
from mmlab.datasets.disk.files import DamagedError

CODES = ("ang", "hap", "exc", "sad", "neu", "fru")
NAMES = ("anger", "happiness", "happiness", "sadness", "neutral", None)
OPTIONS = {"sound": "ogm-ge", "words": 5}


@pytest.fixture
def root(tmp_path):
    for session in range(1, 6):
        folder = tmp_path / f"Session{session}"
        dialog = f"Ses0{session}F_impro05"
        rated, spoken = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""], []
        for i, code in enumerate(CODES):
            turn = f"{dialog}_F{i:03d}"
            rated += [f"[{i}.2250 - {i}.9000]\t{turn}\t{code}\t[1.5000, 4.0000, 4.5000]", ""]
            rated += ["C-E2:\tAnger;\t()", ""]
            spoken.append(f"{turn} [{i:03d}.2250-{i:03d}.9000]: That was [LAUGHTER] number {i}.")
            make_wav(folder / f"sentences/wav/{dialog}/{turn}.wav", 300 + 100 * i, 0.3)
        write(folder / f"dialog/EmoEvaluation/{dialog}.txt", "\n".join(rated))
        write(folder / f"dialog/transcriptions/{dialog}.txt", "\n".join(spoken))
    return tmp_path


def test_turns_with_one_of_four_emotions(root):
    data = load("iemocap", root=root, **OPTIONS)
    assert sum(map(len, data.splits.values())) == 25 and data.n_classes == 4
    classes = ("anger", "happiness", "neutral", "sadness")
    assert "4): anger, happiness, neutral, sadness" in data.card
    for split in data.splits.values():
        for sample in split.dataset.samples:
            assert classes[sample.label] == NAMES[int(sample.name[-1])]
            assert sample.sources["text"].startswith("That was [LAUGHTER] number")


def test_whole_sessions_are_left_out(root):
    tested = set()
    for seed in range(8):
        data = load("iemocap", root=root, seed=seed, **OPTIONS)
        train, holdout, test = map(groups, data.splits.values())
        assert (len(train), len(holdout), len(test)) == (3, 1, 1)
        assert "0 of 1 sessions of the test" in data.card
        tested |= test
    assert len(tested) > 2


def test_lists_of_mla_have_the_sessions_on_both_sides(root):
    turns = [f"Ses0{s}F_impro05_F{i:03d}" for s in range(1, 6) for i in range(5)]
    line = "{}.mp4 [split|sign] That was, it [split|sign] ang"
    write(root / "my_train_iemo.txt", "\n".join(line.format(x) for x in turns if x[-1] != "4"))
    write(root / "my_test_iemo.txt", "\n".join(line.format(x) for x in turns if x[-1] == "4"))
    data = load("iemocap", root=root, split="published", **OPTIONS)
    assert len(data.test) == 5 and "published list" not in data.card
    assert "5 of 5 sessions of the test are also in train or holdout" in data.card


def test_what_the_lists_lack_and_what_they_name_besides_is_counted(root):
    line = "{}.mp4 [split|sign] That was, it [split|sign] ang"
    turns = [f"Ses0{s}F_impro05_F{i:03d}" for s in range(1, 6) for i in range(4)]
    write(root / "my_train_iemo.txt", "\n".join(line.format(x) for x in turns if x[-1] != "3"))
    write(root / "my_test_iemo.txt", "\n".join(line.format(x) for x in [*turns[3::4], "Ses09"]))
    data = load("iemocap", root=root, **OPTIONS)
    assert sum(map(len, data.splits.values())) == 25  # all rated turns
    assert "5 samples are in no published list" in data.card
    assert "1 names of the lists are none of the samples: Ses09" in data.card
    published = load("iemocap", root=root, split="published", **OPTIONS)
    assert sum(map(len, published.splits.values())) == 20


def test_a_session_that_is_missing_and_hidden_files(root):
    write(root / "Session2/dialog/EmoEvaluation/._Ses02F_impro05.txt", b"\x00\x05\x16\x07")
    assert "all of 25 listed" in load("iemocap", root=root, **OPTIONS).card
    (root / "Session4").rename(root / "other")
    with pytest.raises(FileNotFoundError, match="has no Session4;"):
        load("iemocap", root=root)


def test_a_turn_without_words_and_a_folder_without_sessions(root):
    write(root / "Session2/dialog/transcriptions/Ses02F_impro05.txt", "nothing")
    with pytest.raises(DamagedError, match=r"rates Ses02F_impro05_F000, and its transcription"):
        load("iemocap", root=root)
    with pytest.raises(FileNotFoundError, match="no Session1;"):
        load("iemocap", root=root / "Session1")


def test_a_sound_that_is_missing_is_named(root):
    next(root.rglob("Ses03F_impro05_F001.wav")).unlink()
    card = load("iemocap", root=root, **OPTIONS).card
    assert "1 of 25 listed samples (4.0%) are left out: Ses03F_impro05_F001 (audio: " in card


def test_one_word_is_enough(root):
    data = load("iemocap", root=root, **{**OPTIONS, "words": 1})
    assert data.train.head(2).inputs["text"]["mask"].shape == (2, 1)


def test_it_trains(root):
    trains(load("iemocap", root=root, **OPTIONS), {"audio": spectrograms, "text": texts})
