"""`load` finds a data set by name and explains what it does not know."""

import pytest

import mmlab
from mmlab.datasets import DATASETS, load
from mmlab.datasets.disk import DISK_SETS

ELSEWHERE = ("phone-watch", *DISK_SETS)
"""Not in the library. Tested on made files, each in its own file here."""


def test_load_is_a_name_of_the_package():
    assert mmlab.load is load


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in ELSEWHERE])
def test_every_data_set_loads_with_a_card_and_units(name):
    data = load(name, seed=1)
    assert data.name == name and data.card
    assert set(data.units) == set(data.modalities)


@pytest.mark.parametrize("name", ["avdigits", "AV-Digits", "av digit"])
def test_unknown_name_lists_all_and_suggests_one(name):
    with pytest.raises(ValueError, match=rf"{name}.*allowed: .*synthetic.*mean 'av-digits'"):
        load(name)


def test_a_name_like_nothing_gets_no_suggestion():
    with pytest.raises(ValueError, match="unknown data set 'zzz'; allowed: av-digits") as caught:
        load("zzz")
    assert "did you mean" not in str(caught.value)


def test_unknown_option_lists_those_of_the_data_set():
    with pytest.raises(TypeError, match=r"'av-digits' has no option 'nois'.*mean 'noise'"):
        load("av-digits", nois={"image": 0.2})
    with pytest.raises(TypeError, match=r"'synthetic' has no option 'noise'.*redundancy"):
        load("synthetic", noise={"a": 0.2})


def test_unknown_modality_in_a_dial_names_the_allowed():
    for dial in ("noise", "occlusion", "keep", "missing"):
        with pytest.raises(ValueError, match=f"{dial}.*'video'; allowed: audio, image"):
            load("av-digits", **{dial: {"video": 0.5}})


@pytest.mark.parametrize("name", [["av-digits"], None, 1])
def test_a_name_is_text(name):
    with pytest.raises(TypeError, match=r"the name of the data set is .*; give one of av-digits"):
        load(name)
