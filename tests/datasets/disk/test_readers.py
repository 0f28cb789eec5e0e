"""Sound, pictures, videos and texts of files, against numbers that are known."""

import math
import pickle
import sys

import numpy as np
import pytest
import torch
from making import make_array, make_picture, make_video, make_wav, tone, write

from mmlab.datasets.disk import extra
from mmlab.datasets.disk.files import DamagedError, files_of
from mmlab.datasets.disk.lists import read_fields, read_table
from mmlab.datasets.disk.pictures import Cut, Frames, Picture, RandomCrop, spread
from mmlab.datasets.disk.reader import decode
from mmlab.datasets.disk.sound import Sound, read_wave, resampled
from mmlab.datasets.disk.spectrograms import RECIPES, fbank, middle, triangles
from mmlab.datasets.disk.text import TokenFiles, Words, read_text

SHAPES = {
    "ogm-ge": (257, 188),
    "pmr": (257, 1004),
    "vggsound": (129, 626),
    "mla": (1024, 128),
    "mmpareto": (1024, 128),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_gives_the_published_shape_and_shows_the_pitch(recipe, tmp_path):
    make_wav(tmp_path / "a.wav", pitch=2000, seconds=1, rate=16_000)
    found = Sound(recipe)(tmp_path / "a.wav")
    assert found.shape == SHAPES[recipe] and found.dtype == np.float32
    assert np.isfinite(found).all()
    rate, _ = RECIPES[recipe]
    if found.shape[1] == 128:
        mel = [1127 * math.log1p(f / 700) for f in (20, 2000, 8000)]
        assert abs(found[:90].mean(0).argmax() - (mel[1] - mel[0]) / (mel[2] - mel[0]) * 129) < 2
    else:
        assert abs(found.mean(1).argmax() - 2000 / (rate / 2) * (len(found) - 1)) < 1


def test_the_recipe_of_ogm_ge_by_hand(tmp_path):
    """One column: the Fourier sum of a Hann window, in float64."""
    make_wav(tmp_path / "a.wav", pitch=441, seconds=3, rate=22_050)
    wave, rate = read_wave(tmp_path / "a.wav")
    found = Sound("ogm-ge")(tmp_path / "a.wav")
    column, n = 50, np.arange(512)
    part = wave[column * 353 - 256 :][:512] * (0.5 - 0.5 * np.cos(2 * np.pi * n / 512))
    expected = abs(np.fft.rfft(part.astype(float))) + 1e-7
    assert rate == 22_050
    np.testing.assert_allclose(np.exp(found[:, column]), expected, rtol=1e-4, atol=1e-5)


def test_the_recipe_of_pmr_by_hand(tmp_path):
    """Two numbers of a picture: the density per Hz of a Tukey window, in float64."""
    make_wav(tmp_path / "a.wav", pitch=1000, seconds=1)
    wave = np.tile(read_wave(tmp_path / "a.wav")[0].astype(float), 10)
    ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(64) / 64)  # a quarter of 512, half at each end
    window = np.concatenate([ramp, np.ones(385), ramp[:0:-1]])
    columns = []
    for start in range(0, 160_000 - 511, 159):
        part = wave[start : start + 512]
        power = np.abs(np.fft.rfft((part - part.mean()) * window)) ** 2
        power[1:-1] *= 2
        columns.append(np.log(power / (16_000 * (window**2).sum()) + 1e-7))
    expected = np.array(columns).T
    expected = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(Sound("pmr")(tmp_path / "a.wav"), expected, atol=2e-3)


def test_lines_end_with_a_line_feed_only(tmp_path):
    write(tmp_path / "a.csv", "a,caf\u2028e\r\nb,1\x85\x0c2\n", "utf-8")
    assert list(read_fields(tmp_path / "a.csv", ",", 2)) == [
        ["a", "caf\u2028e"],
        ["b", "1\x85\x0c2"],
    ]


def test_pictures_of_a_folder_have_one_order(tmp_path, monkeypatch):
    names = ["frame_10.jpg", "frame_9.jpg", "b.jpg", "a.jpg", "c9.jpg"]
    monkeypatch.setattr(type(tmp_path), "is_dir", lambda path: True)
    monkeypatch.setattr(type(tmp_path), "is_file", lambda path: True)
    monkeypatch.setattr(type(tmp_path), "iterdir", lambda path: (path / name for name in names))
    found = [file.name for file in files_of(tmp_path)]
    assert found == ["a.jpg", "b.jpg", "c9.jpg", "frame_9.jpg", "frame_10.jpg"]


def test_the_filter_bank_by_hand():
    """One frame of Kaldi's, in float64 and with loops."""
    rate, wave = 16_000, torch.randn(2000, generator=torch.Generator().manual_seed(0)).double()
    x = (wave - wave.mean())[160:560]
    x = x - x.mean()
    x = torch.tensor([x[i] - 0.97 * x[max(i - 1, 0)] for i in range(400)])
    x = x * torch.tensor([0.5 - 0.5 * math.cos(2 * math.pi * i / 399) for i in range(400)])
    power = np.abs(np.fft.rfft(x.numpy(), 512)) ** 2
    low, high = (1127 * math.log(1 + f / 700) for f in (20, 8000))
    step = (high - low) / 129
    for band in (20, 64, 127):
        total = 0.0
        for k in range(256):
            place = (1127 * math.log(1 + k * rate / 512 / 700) - low) / step - band
            total += max(0.0, min(place, 2 - place)) * power[k]
        assert fbank(wave, rate)[1, band].item() == pytest.approx(math.log(total), abs=1e-5)
    assert triangles(256, rate, 128).shape == (128, 256)


def test_spectrograms_that_somebody_made_are_taken_as_they_are(tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    make_array(tmp_path / "a.npy", values)
    write(tmp_path / "a.pkl", pickle.dumps(values, 2))
    torch.save(torch.from_numpy(values), tmp_path / "a.pt")
    for end in ("npy", "pkl", "pt"):
        found = Sound("pmr")(tmp_path / f"a.{end}")
        assert found.dtype == np.float32 and (found == values).all()
    make_array(tmp_path / "b.npy", np.arange(3))
    with pytest.raises(DamagedError, match=r"b\.npy cannot be read.*floats \(H, W\)"):
        decode(Sound("pmr"), tmp_path / "b.npy")


def test_the_sound_of_a_video_and_of_two_channels(tmp_path):
    make_video(tmp_path / "a.mp4", [0] * 10, "mpeg4", pitch=1000)
    wave, rate = read_wave(tmp_path / "a.mp4")
    assert rate == 16_000 and len(wave) >= 16_000
    assert abs(abs(np.fft.rfft(wave[:16_000])).argmax() - 1000) <= 1
    make_video(tmp_path / "b.mp4", [0] * 3, "mpeg4")
    with pytest.raises(DamagedError, match=r"b\.mp4 cannot be read.*no sound"):
        decode(Sound("mla"), tmp_path / "b.mp4")


def test_resampling_keeps_the_pitch():
    found = resampled(tone(1000, 1, 44_100), 44_100, 16_000)
    assert found.shape == (16_000,) and abs(np.fft.rfft(found)).argmax() == 1000


def test_too_short_a_sound_is_refused(tmp_path):
    make_wav(tmp_path / "a.wav", seconds=0.01)
    with pytest.raises(DamagedError, match="25 ms are the least"):
        decode(Sound("ogm-ge"), tmp_path / "a.wav")


CODECS = {"a.flv": "flv1", "a.avi": "mpeg4", "a.mp4": "mpeg4"}


@pytest.mark.parametrize("name", CODECS)
def test_frames_of_a_video_are_spread_over_it(tmp_path, name):
    lights = [0, 0, 60, 60, 120, 120, 240, 240]
    make_video(tmp_path / name, lights, CODECS[name])
    found = Frames(4, 8)(tmp_path / name)
    assert found.shape == (4, 3, 8, 8) and found.dtype == np.uint8
    assert np.allclose(found.mean((1, 2, 3)), [0, 60, 120, 240], atol=8)
    cut = Frames(2, 8)(Cut(tmp_path / name, 2, 6))
    assert np.allclose(cut.mean((1, 2, 3)), [60, 120], atol=8)


def test_a_damaged_video_is_named(tmp_path):
    make_video(tmp_path / "a.flv", [0] * 9, "flv1")
    (tmp_path / "a.flv").write_bytes(b"FLV" + bytes(500))
    with pytest.raises(DamagedError, match=r"a\.flv cannot be read"):
        decode(Frames(2, 8), tmp_path / "a.flv")


def test_pictures_are_normalised_as_imagenets(tmp_path):
    make_picture(tmp_path / "a.png", 128)
    reader = Picture(4)
    found = reader.tensor(reader(tmp_path / "a.png"))
    expected = [
        (128 / 255 - mean) / sd for mean, sd in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))
    ]
    assert torch.allclose(found.mean((1, 2)), torch.tensor(expected), atol=1e-5)


def test_fewer_frames_than_wanted_come_again():
    assert spread(1, 3) == [0, 0, 0] and spread(9, 3) == [1, 4, 7] and spread(3, 3) == [0, 1, 2]


def test_crops_and_flips_are_of_whole_samples():
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 16).expand(64, 2, 3, 16, 16).clone()
    found = RandomCrop()(ramp)
    assert found.shape == ramp.shape and torch.equal(found[:, 0], found[:, 1])
    slope = (found[..., -1] - found[..., 0]).mean((1, 2, 3))
    assert 20 < int((slope < 0).sum()) < 44  # mirrored
    assert slope.abs().max() <= 1.001 and slope.abs().min() > 0.05  # a part, as large as the whole
    assert found.min() >= 0 and found.max() <= 1 and slope.abs().std() > 0.1
    assert (RandomCrop(mirror=False)(ramp).diff(dim=-1) >= 0).all()


def test_a_crop_lies_within_the_picture():
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 16).expand(64, 2, 3, 16, 16)
    for picture, axis in ((ramp, -1), (ramp.mT, -2)):
        found = RandomCrop(mirror=False)(picture.contiguous())
        steps = found.movedim(axis, -1).diff()[..., 1:-1]  # beyond the edge all pixels are alike
        torch.testing.assert_close(steps, steps.mean(-1, keepdim=True).expand_as(steps))


def test_the_middle_of_a_sound_and_a_short_one_again():
    wave = torch.arange(10)
    assert middle(wave, 4).tolist() == [3, 4, 5, 6] and middle(wave, 9).tolist() == [*range(9)]
    assert middle(wave, 12).tolist() == [*range(10), 0, 1]


def test_of_a_folder_hidden_files_and_folders_do_not_count(tmp_path):
    for name in ("frame_10.jpg", "frame_9.jpg", ".DS_Store"):
        write(tmp_path / name, "")
    (tmp_path / "more").mkdir()
    assert [file.name for file in files_of(tmp_path)] == ["frame_9.jpg", "frame_10.jpg"]


def test_words_get_a_number_each_and_a_mask():
    found = Words(5, 1000)("Good food, good")
    assert found["values"][0] == found["values"][3] != found["values"][1]
    assert found["mask"].tolist() == [True, True, True, True, False] and found["values"][4] == 0
    assert Words(2)("one two three")["mask"].all() and not Words(2)("")["mask"].any()


def test_token_files_have_an_inverted_mask(tmp_path):
    make_array(tmp_path / "a_token.npy", np.array([[101, 7, 102, 0]]))
    make_array(tmp_path / "a_pm.npy", np.array([[0, 0, 0, 1]]))
    found = TokenFiles()(tmp_path / "a_token.npy")
    assert found["values"].tolist() == [101, 7, 102, 0]
    assert found["mask"].tolist() == [True, True, True, False]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin1"])
def test_texts_of_any_encoding(tmp_path, encoding):
    write(tmp_path / "a.txt", "café", encoding)
    assert read_text(tmp_path / "a.txt") == "café"


def test_wrong_lines_are_named(tmp_path):
    write(tmp_path / "a.csv", "a,b\n\nc\n")
    with pytest.raises(DamagedError, match=r"a\.csv, line 3: 'c' has 1 fields; wanted are 2"):
        list(read_fields(tmp_path / "a.csv", ",", 2))
    with pytest.raises(DamagedError, match=r"has no column 'label'; it has \['a', 'b'\]"):
        list(read_table(tmp_path / "a.csv", "a", "label"))


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"needs the package 'av'.*mmlab\[media\]"):
        decode(Frames(2, 8), tmp_path / "a.flv")
    with pytest.raises(ImportError, match="nothing"):
        extra.media("nothing", "a test")
