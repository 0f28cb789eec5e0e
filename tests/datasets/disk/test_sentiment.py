"""CMU-MOSI and CMU-MOSEI as MMSA's and MulT's pickles and as the SDK's files."""

import pickle

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from training import FIVE, WIDTH, trains

from mmlab.datasets import load
from mmlab.datasets.disk.files import DamagedError
from mmlab.models import SequenceGRU

SIZES = {"text": 6, "audio": 3, "vision": 4}
COUNTS = {"train": 12, "valid": 4, "test": 6}
DRAW = np.random.default_rng(0)


def rated(count):
    return DRAW.choice([-2.4, -1, 0, 0.6, 3], count).astype(np.float32)


def mmsa(lengths=True):
    """Two clips per video; five steps, of which the last are padding."""
    content = {}
    for part, count in COUNTS.items():
        values = {m: DRAW.normal(1, 1, (count, 5, d)).astype(np.float32) for m, d in SIZES.items()}
        mask = np.arange(5) < DRAW.integers(1, 6, (count, 1))
        content[part] = {
            **values,
            "id": np.array([f"{part}{i // 2}$_${i}" for i in range(count)]),
            "text_bert": np.stack([mask * 7, mask, mask * 0], 1),
            "regression_labels": rated(count),
            "raw_text": np.array(["it was good"] * count),
        }
        if lengths:
            content[part] |= {f"{m}_lengths": [3] * count for m in ("audio", "vision")}
    return content


def mult():
    """Padded at the front; the second sample of train has no words."""
    content = {}
    for part, count in COUNTS.items():
        values = {m: DRAW.normal(1, 1, (count, 5, d)).astype(np.float32) for m, d in SIZES.items()}
        for array in values.values():
            array[:, :2] = 0
        if part == "train":
            values["text"][1] = 0
        content[part] = {
            **values,
            "labels": rated(count).reshape(-1, 1, 1),
            "id": np.array([[f"{part}{i // 2}".encode(), b"0.1", b"2.5"] for i in range(count)]),
        }
    return content


def put(path, content, protocol=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))


@pytest.fixture(params=["MOSI", "MOSEI"])
def corpus(request):
    return request.param


def loaded(corpus, root, **options):
    return load(f"cmu-{corpus.lower()}", root=root, **options)


def videos_of(content, part):
    return {name.split("$_$")[0] for name in content[part]["id"].tolist()}


def test_mmsas_pickles(corpus, tmp_path):
    content = mmsa()
    put(tmp_path / f"{corpus}/Processed/unaligned_50.pkl", content, protocol=2)
    data = loaded(corpus, tmp_path, aligned=False, split="published")
    assert [len(split) for split in data.splits.values()] == [12, 4, 6]
    assert data.task == "regression" and "0 of 3 videos of the test" in data.card
    text, audio = data.train.inputs["text"], data.train.inputs["audio"]
    assert torch.equal(text["mask"], torch.from_numpy(content["train"]["text_bert"][:, 1] > 0))
    assert audio["mask"].sum(1).tolist() == [3] * 12
    assert np.allclose(audio["values"], content["train"]["audio"])
    assert np.allclose(data.test.target, content["test"]["regression_labels"])


def test_ratings_as_classes_and_the_clean_split(corpus, tmp_path):
    content = mmsa(lengths=False)
    put(tmp_path / "aligned_50.pkl", content)
    data = loaded(corpus, tmp_path, task="classification", split="published")
    expected = np.sign(content["test"]["regression_labels"]) + 1
    assert data.n_classes == 3 and data.test.target.tolist() == expected.tolist()
    clean = loaded(corpus, tmp_path, seed=3)
    assert "0 of 3 videos" in clean.card or "0 of 2 videos" in clean.card
    assert sum(map(len, clean.splits.values())) == 22


def test_infinite_numbers_become_0_and_are_counted(tmp_path):
    content = mmsa()
    content["train"]["audio"][0, 0] = [-np.inf, np.nan, 1]
    put(tmp_path / "aligned_50.pkl", content)
    data = load("cmu-mosi", root=tmp_path, split="published")
    assert "audio: 2 numbers were infinite or none, and are 0 now" in data.card
    assert data.train.inputs["audio"]["values"][0, 0].tolist() == [0, 0, 1]


def test_mults_pickles(tmp_path):
    content = mult()
    put(tmp_path / "mosi_data.pkl", content)
    put(tmp_path / "mosei_senti_data_noalign.pkl", content)
    for name, aligned in (("cmu-mosi", True), ("cmu-mosei", False)):
        data = load(name, root=tmp_path, aligned=aligned, split="published")
        assert [len(split) for split in data.splits.values()] == [11, 4, 6]
        assert "train: 1 samples without words are left out" in data.card
        text = data.train.inputs["text"]
        assert text["mask"].sum(1).tolist() == [3] * 11 and not text["mask"][:, :2].any()
        assert data.train.target[1].item() == content["train"]["labels"][2].item()
        assert "0 of 3 videos of the test are also in train" in data.card


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": 1, "other": 2}, r"has no 'valid'; it holds \['train', 'other'\].*another file"),
        ([1], r"has no 'train'; it holds list"),
        ({part: {"text": 1} for part in COUNTS}, r"has no 'audio' of train; it holds \['text'\]"),
        ({part: mmsa()[part] | {"audio": np.zeros(12)} for part in COUNTS}, "audio of train is no"),
    ],
)
def test_another_file_of_that_name_is_refused(tmp_path, content, message):
    put(tmp_path / "aligned_50.pkl", content)
    with pytest.raises(DamagedError, match=message):
        load("cmu-mosi", root=tmp_path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no MOSI/Processed/aligned_50\.pkl or .*Labels"):
        load("cmu-mosi", root=tmp_path)
    with pytest.raises(ValueError, match="task is 'multilabel'; allowed are 'regression'"):
        load("cmu-mosi", root=tmp_path, task="multilabel")


# --- the SDK's files ------------------------------------------------------------------------------


def make_csd(path, videos):
    """videos: name -> (features, intervals)."""
    with h5py.File(path, "w") as file:
        root = file.create_group("anything")
        for name, (features, intervals) in videos.items():
            group = root.create_group(f"data/{name}")
            group["features"], group["intervals"] = features, np.array(intervals, float)
        root["metadata/version"] = np.array([b'"1.0"'])


@pytest.fixture
def sdk(tmp_path):
    """Ten videos of two segments of 2 s: a word per second, the third of them a pause."""
    names = [f"v{i}" for i in range(10)]
    seconds = [[t, t + 1] for t in range(4)]
    words = np.ones((4, 6)) * np.arange(1, 5)[:, None]
    words[2] = 0
    halves = [[t / 2, t / 2 + 0.5] for t in range(8)]
    voice = np.arange(8.0)[:, None] * np.ones(3)
    voice[0] = -np.inf
    labels = np.array([[1.5, 0, 0], [-2, 0, 0]])
    made = {
        "Opinion_Labels": {name: (labels, [[0, 2], [2, 4]]) for name in [*names, "only"]},
        "TimestampedWordVectors": dict.fromkeys(names, (words, seconds)),
        "COVAREP": dict.fromkeys(names, (voice, halves)),
        "Visual_Facet_42": dict.fromkeys(names, (voice[:, :2] + 1, halves)),
    }
    for name, videos in made.items():
        make_csd(tmp_path / f"CMU_MOSI_{name}.csd", videos)
    return tmp_path


def test_csd_files_are_brought_to_the_words(sdk):
    data = load("cmu-mosi", root=sdk, seed=1)
    assert sum(map(len, data.splits.values())) == 20
    assert "2 labelled segments lack words" in data.card and "only[0], only[1]" in data.card
    rows = {round(y.item(), 1): i for i, y in enumerate(data.train.target)}
    text, audio = data.train.inputs["text"], data.train.inputs["audio"]
    first, second = rows[1.5], rows[-2.0]
    assert text["mask"].sum(1)[[first, second]].tolist() == [2, 1]  # the pause is no word
    assert text["values"][second, 0].tolist() == [4] * 6
    assert audio["values"][first, :2, 0].tolist() == [0.5, 2.5]  # means of half seconds
    assert data.shape("vision") == {"values": (50, 2), "mask": (50,)}


def test_the_folds_of_csd_files_are_not_in_them(sdk):
    with pytest.raises(ValueError, match="split='published' leaves no sample of cmu-mosi"):
        load("cmu-mosi", root=sdk, split="published")


def test_a_csd_file_that_is_cut_off_is_named(sdk):
    file = sdk / "CMU_MOSI_COVAREP.csd"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DamagedError, match=r"COVAREP\.csd is no whole \.csd file"):
        load("cmu-mosi", root=sdk)


def encoder(size):
    return lambda: SequenceGRU(nn.Linear(size, WIDTH), WIDTH)


def test_all_five_methods_train_on_it(tmp_path):
    put(tmp_path / "aligned_50.pkl", mmsa())
    data = load("cmu-mosi", root=tmp_path, task="classification", split="published")
    trains(data, {m: encoder(size) for m, size in SIZES.items()}, FIVE)


def test_ratings_are_learnt(tmp_path):
    put(tmp_path / "aligned_50.pkl", mmsa())
    data = load("cmu-mosei", root=tmp_path, split="published")
    trains(data, {m: encoder(size) for m, size in SIZES.items()})
