"""phone-watch, on small made files of its real layout: splits, windows, errors with their lines."""

import re
import shutil
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch

from mmlab.datasets import load
from mmlab.datasets import phone_watch_tables as tables
from mmlab.datasets import phone_watch_windows as windows
from mmlab.datasets.phone_watch import FRONT_PEOPLE, choose
from mmlab.datasets.phone_watch_tables import ACTIVITIES, COLUMNS, INFO, POCKETS

PEOPLE = {1: "back", 2: "back", 3: "back_inv", 4: "back_inv", 6: "back"}
PEOPLE |= dict.fromkeys(FRONT_PEOPLE, "front")
SECONDS = 2  # of each activity


def table(person, rate, shift=0):
    """A recording of all activities: noise around the activity's and the person's number."""
    random = np.random.default_rng(person)
    count = SECONDS * len(ACTIVITIES) * rate
    time = 1_600_000_000_000 + shift + np.arange(count) * 1000 // rate
    number = (np.arange(count) // (SECONDS * rate)) % len(ACTIVITIES)
    values = random.normal(number[:, None] + person / 10, 1, (count, 6))
    lines = [
        ",".join([*map(str, row), str(when), ACTIVITIES[which]])
        for row, when, which in zip(values, time, number, strict=True)
    ]
    return "\n".join([",".join(COLUMNS), *lines]) + "\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    lines = ["execution_id,orientation,first_turn,second_turn"]
    for person, pocket in PEOPLE.items():
        name = f"s{person:02d}"
        (root / "DATA" / name).mkdir(parents=True)
        for end, rate, shift in (("sp", 111, 0), ("sw", 100, 30)):
            file = root / "DATA" / name / f"{name}_01_{end}.csv"
            file.write_text(table(person, rate, shift))
        lines.append(f"{name}_01,{pocket},l,r")
    (root / "DATA" / INFO).write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(made, tmp_path / "root")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache/mmlab/phone-watch"


def spoil(root, name, line, old, new):
    """Change a line of a file, counted from 1."""
    [file] = root.rglob(name)
    lines = file.read_text().splitlines(keepends=True)
    assert re.search(old, lines[line - 1])
    lines[line - 1] = re.sub(old, new, lines[line - 1], count=1)
    file.write_text("".join(lines))


def pack(root, file):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(root.rglob("*.csv")):
            target.write(path, f"repository-1.0/{path.relative_to(root)}")
    return file


# --- the data set ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"split": "pocket"}])
def test_shapes_units_and_card(made, options):
    data = load("phone-watch", root=made, **options)
    assert data.name == "phone-watch" and "CC BY 4.0" in data.card and data.n_classes == 5
    assert set(data.units) == set(data.modalities) == {"phone", "watch"}
    for m in data.modalities:
        values = data.train.inputs[m]
        assert data.shape(m) == (6, 50) and values.dtype == torch.float32
        sd, mean = torch.std_mean(values, (0, 2), correction=0)
        assert torch.allclose(sd, torch.ones(6), atol=1e-4)
        assert torch.allclose(mean, torch.zeros(6), atol=1e-4)


def test_the_same_seed_gives_the_same_data_and_another_one_others(made):
    one, same, other = (load("phone-watch", root=made, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.train.inputs["phone"], same.train.inputs["phone"])
    assert not torch.equal(one.test.inputs["phone"], other.test.inputs["phone"])


def test_dials(made):
    clean = load("phone-watch", root=made)
    noisy = load("phone-watch", root=made, noise={"phone": 2.0}, missing={"watch": 0.5})
    assert not torch.equal(clean.test.inputs["phone"], noisy.test.inputs["phone"])
    assert noisy.test.present is not None and not noisy.test.present["watch"].all()


def some_windows(each=40):
    """Arrays as of `windows`, with a window of every class for each person, many times."""
    subject = np.repeat([*PEOPLE], 5 * each)
    return {
        "subject": subject,
        "activity": np.tile(np.arange(5), len(PEOPLE) * each).astype(np.uint8),
        "pocket": np.array([PEOPLE[person] for person in subject]),
    }


@pytest.mark.parametrize("split", ["person", "pocket"])
def test_no_person_is_in_two_splits(split):
    arrays = some_windows()
    for seed in range(5):
        rows = choose(arrays, seed, split)
        people = [set(arrays["subject"][row].tolist()) for row in rows.values()]
        assert all(people)
        assert len(set.union(*people)) == sum(map(len, people))


def test_pockets_are_turned_between_training_and_test():
    arrays = some_windows()
    for seed in range(5):
        rows = choose(arrays, seed, "pocket")
        assert set(arrays["subject"][rows["test"]]) == set(FRONT_PEOPLE)
        for part in ("train", "holdout"):
            assert set(arrays["pocket"][rows[part]]) <= {"back", "back_inv"}


def test_front_windows_of_people_who_also_turn_it_back_are_left_out():
    arrays = some_windows()
    mixed = np.flatnonzero(arrays["subject"] == 1)[:7]
    arrays["pocket"][mixed] = "front"
    rows = torch.cat(list(choose(arrays, 0, "pocket").values()))
    assert not np.isin(mixed, rows).any()


def test_front_people_move_to_the_training_one_after_the_other():
    arrays = some_windows()
    joined = []
    for k in range(6):
        rows = choose(arrays, 3, "pocket", k)
        trained, tested = (set(arrays["subject"][rows[part]]) for part in ("train", "test"))
        joined.append(trained & set(FRONT_PEOPLE))
        assert len(joined[-1]) == k and tested == set(FRONT_PEOPLE) - trained
    assert all(few < more for few, more in pairwise(joined))


def test_windows_per_class_are_capped():
    arrays = some_windows(each=120)
    rows = choose(arrays, 0, "pocket", 2)
    counts = {part: np.bincount(arrays["activity"][row]).tolist() for part, row in rows.items()}
    assert counts == {"train": [450] * 5, "holdout": [120] * 5, "test": [200] * 5}


@pytest.mark.parametrize(
    ("options", "error", "found"),
    [
        ({"split": "persons"}, ValueError, "'persons'; allowed: person, pocket .*'person'"),
        ({"split": ["pocket"]}, ValueError, r"unknown split \['pocket'\]"),
        ({"split": "pocket", "front_people": 6}, ValueError, "front_people is 6; .*from 0 to 5"),
        ({"split": "pocket", "front_people": 0.5}, ValueError, "front_people is 0.5; give a whole"),
        ({"split": "pocket", "front_people": True}, ValueError, "front_people is True"),
        ({"front_people": 1}, ValueError, "front_people=1 .*say split='pocket'"),
        ({"noise": {"phon": 1.0}}, ValueError, "'phon'; allowed: phone, watch"),
        ({"root": 3}, TypeError, "root is 3; give the path of a folder"),
        ({"seed": -1}, ValueError, "seed is -1"),
    ],
)
def test_bad_settings(made, options, error, found):
    with pytest.raises(error, match=found):
        load("phone-watch", **{"root": made, **options})


def test_a_split_that_stays_empty_is_said(root):
    for person in FRONT_PEOPLE:
        shutil.rmtree(root / f"DATA/s{person:02d}")
    info = root / "DATA" / INFO
    info.write_text("".join(x for x in info.open() if "front" not in x))
    with pytest.raises(ValueError, match=r"split='pocket' leaves no window for test; .* s01, s02"):
        load("phone-watch", root=root, split="pocket")


# --- windows --------------------------------------------------------------------------------------


def track(time, labels, values=None):
    time, labels = np.asarray(time), np.asarray(labels)
    if values is None:
        values = np.arange(6) + time[:, None] / 1000.0
    return tables.Track(time, np.asarray(values, np.float32), labels)


def test_both_devices_are_on_one_clock():
    """Channels that are linear in time come out linear, whatever the devices' own rates."""
    times = np.arange(0, 3000, 9), np.arange(130, 2900, 10)
    phone, watch = (track(time, np.ones(len(time), int)) for time in times)
    found = windows.windows({"s01_01": tables.Execution(1, "back", phone, watch)})
    assert found["phone"].shape == (4, 6, 50)
    assert np.allclose(found["phone"], found["watch"], atol=1e-5)
    starts = 0.13 + 0.5 * np.arange(4)
    seconds = starts[:, None] + 0.02 * np.arange(50)
    assert np.allclose(found["phone"][:, 2], 2 + seconds, atol=1e-5)


def test_a_label_must_cover_four_fifths():
    for before, kept in ((200, [2]), (220, []), (800, [0]), (780, [])):
        time = np.arange(0, 1000, 10)
        one = track(time, np.where(time < before, 0, 2))
        execution = tables.Execution(1, "back", one, one)
        phone, _, activity = windows._cut(execution)
        assert activity.tolist() == kept and len(phone) == len(kept)


def test_devices_that_never_ran_together_give_no_window():
    one, other = (track(np.arange(at, at + 2000, 10), np.zeros(200, int)) for at in (0, 5000))
    with pytest.raises(ValueError, match=r"no window of 1 s .* 1 executions; .*overlap in time"):
        windows.windows({"s01_01": tables.Execution(1, "back", one, other)})


def test_of_two_samples_at_one_time_the_last_counts():
    values = np.repeat([[1.0], [5.0], [9.0]], 6, axis=1)
    one = track([0, 20, 20], [0, 0, 0], values)
    assert windows._on(np.array([0, 20]), one)[0].tolist() == [1.0, 9.0]


def test_samples_out_of_order_are_put_in_order(root):
    before = tables.read(root)
    [file] = root.rglob("s01_01_sp.csv")
    head, first, second, *others = file.read_text().splitlines()
    file.write_text("\n".join([head, *others, second, first]))
    assert tables.content_sha256(tables.read(root)) == tables.content_sha256(before)


# --- files ----------------------------------------------------------------------------------------


def test_a_zip_gives_what_the_folder_gives(made, tmp_path):
    packed = pack(made, tmp_path / "a.zip")
    one, other = (tables.read(source) for source in (made, packed))
    assert [*one] == [*other] and tables.content_sha256(one) == tables.content_sha256(other)
    assert load("phone-watch", root=packed).train.target.equal(
        load("phone-watch", root=str(made)).train.target
    )


def test_the_content_hash_sees_numbers_and_not_how_they_are_written(root):
    before = tables.content_sha256(tables.read(root))
    spoil(root, "s01_01_sp.csv", 5, r"^([-\d.]+)", r"\g<1>000")
    assert tables.content_sha256(tables.read(root)) == before
    spoil(root, "s01_01_sp.csv", 5, r"^([-\d.]+)", r"7.5")
    assert tables.content_sha256(tables.read(root)) != before


@pytest.mark.parametrize(
    ("name", "line", "old", "new", "found"),
    [
        ("s01_01_sp.csv", 1, "y_gyro", "gyro", "line 1, has no column 'y_gyro'; needed are x_acc"),
        ("s01_01_sp.csv", 9, r"^[-\d.]+", "abc", "line 9: x_acc is 'abc'; give a finite number"),
        ("s01_01_sp.csv", 9, r"^[-\d.]+", "", "line 9: x_acc is 'nan'"),
        ("s01_01_sw.csv", 3, r"^[-\d.]+", "inf", "line 3: x_acc is 'inf'"),
        ("s01_01_sw.csv", 3, r",\d{13},", ",1e300,", r"line 3: timestamp is '1e\+300'"),
        ("s01_01_sw.csv", 3, r",\d{13},", ",1,", "line .*: timestamp lies more than 3600 s"),
        ("s01_01_sp.csv", 4, "SEATED", "SEATD", "line 4: unknown label 'SEATD'.*mean 'SEATED'"),
        ("s01_01_sp.csv", 4, "SEATED", "", "line 4: unknown label nan"),
        ("s01_01_sp.csv", 6, "$", ",1,2", "not a readable table: .*line 6"),
        (
            INFO,
            4,
            "back_inv",
            "side",
            "line 4: unknown orientation 'side'; allowed: back,",
        ),
        (INFO, 4, "s03_01", "s02_01", "line 4: s02_01 is there twice"),
        (INFO, 4, "s03_01", "s03_02", "does not name s03_01, which has tables"),
        (INFO, 1, "orientation", "pocket", "line 1, has no column 'orientation'"),
    ],
)
def test_a_wrong_line_is_named(root, name, line, old, new, found):
    spoil(root, name, line, old, new)
    with pytest.raises(ValueError, match=re.escape(name) + ".*" + found):
        load("phone-watch", root=root)


def test_empty_lines_do_not_shift_the_count(root):
    spoil(root, "s01_01_sp.csv", 4, "^", "\n")
    with pytest.raises(ValueError, match=r"s01_01_sp\.csv, line 4: timestamp is 'nan'"):
        load("phone-watch", root=root)


def test_missing_files_are_said(root, tmp_path):
    [file] = root.rglob("s02_01_sw.csv")
    file.unlink()
    with pytest.raises(ValueError, match=r"s02_01 lacks s02_01_sw\.csv, the table of the watch"):
        load("phone-watch", root=root)
    [other] = root.rglob("s02_01_sp.csv")
    other.unlink()
    with pytest.raises(ValueError, match=r"executions_info\.csv, line 3: s02_01 has no tables"):
        load("phone-watch", root=root)
    (root / "DATA" / INFO).unlink()
    with pytest.raises(FileNotFoundError, match=r"no executions_info\.csv in .*give the folder"):
        load("phone-watch", root=root)
    for wrong in (tmp_path / "nowhere", tmp_path):
        shutil.rmtree(root, ignore_errors=True)
        with pytest.raises(FileNotFoundError, match=r"there is no .*give the folder or zip"):
            load("phone-watch", root=wrong)


def test_one_table_twice_is_refused(root):
    shutil.copytree(root / "DATA/s01", root / "copy")
    with pytest.raises(ValueError, match=r"holds s01_01_s[pw]\.csv twice; leave one of them out"):
        load("phone-watch", root=root)


def test_a_table_without_lines_is_refused(root):
    [file] = root.rglob("s01_01_sp.csv")
    file.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(ValueError, match=r"s01_01_sp\.csv has no line of data"):
        load("phone-watch", root=root)
    file.write_text("")
    with pytest.raises(ValueError, match=r"s01_01_sp\.csv is not a readable table"):
        load("phone-watch", root=root)


# --- kept windows ---------------------------------------------------------------------------------


def test_the_second_load_reads_no_table(made, monkeypatch):
    first = load("phone-watch", root=made)
    monkeypatch.setattr(tables, "read", lambda *_: pytest.fail("the tables were read again"))
    second = load("phone-watch", root=made)
    for m in first.modalities:
        assert torch.equal(first.test.inputs[m], second.test.inputs[m])


def test_changed_files_and_damaged_windows_are_read_again(root, cache):
    load("phone-watch", root=root)
    [kept] = cache.glob("windows-*.npz")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:1000])
    load("phone-watch", root=root)
    assert len(kept.read_bytes()) == len(whole)
    spoil(root, "s01_01_sp.csv", 2, r"^[-\d.]+", "123456")
    load("phone-watch", root=root)
    assert len([*cache.glob("windows-*.npz")]) == 2


def test_a_cache_that_cannot_be_written_is_no_error(made, cache):
    cache.parent.parent.write_text("in the way")
    with pytest.warns(UserWarning, match="windows are not kept for the next time: cannot write"):
        load("phone-watch", root=made)


def test_windows_of_ones_own_can_be_given(made, cache, tmp_path):
    load("phone-watch", root=made)
    [kept] = cache.glob("windows-*.npz")
    arrays = dict(np.load(kept))
    halves = {m: arrays[m].reshape(-1, 6, 25, 2).mean(3).astype(np.float16) for m in tables.DEVICES}
    np.savez_compressed(tmp_path / "own.npz", **arrays | halves)
    assert load("phone-watch", root=tmp_path / "own.npz").shape("watch") == (6, 25)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"phone": np.zeros((4, 6, 50), object)}, "is not a readable .npz of windows: .*pickle"),
        ({"watch": None}, "has no array 'watch'; needed are phone, watch, activity"),
        ({"watch": np.zeros((4, 6, 25))}, r"watch has shape \(4, 6, 25\)"),
        ({"phone": np.zeros(4)}, r"phone has shape \(4,\)"),
        ({"activity": np.array([0, 1, 2, 5])}, "activity must be one of 0, 1, 2, 3, 4"),
        ({"pocket": np.array(["left"] * 4)}, f"pocket must be one of {', '.join(POCKETS)}"),
    ],
)
def test_wrong_windows_are_refused(tmp_path, change, found):
    inputs = {"phone": np.zeros((4, 6, 50)), "watch": np.zeros((4, 6, 50))}
    about = {"activity": np.arange(4), "subject": np.arange(4), "pocket": np.array(["back"] * 4)}
    arrays = {k: v for k, v in (inputs | about | change).items() if v is not None}
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(ValueError, match=rf"own\.npz.*{found}"):
        load("phone-watch", root=tmp_path / "own.npz")


def test_what_is_no_npz_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*own\.npz; give a folder"):
        load("phone-watch", root=tmp_path / "own.npz")
    (tmp_path / "own.npz").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"own\.npz is not a readable \.npz of windows"):
        load("phone-watch", root=tmp_path / "own.npz")
