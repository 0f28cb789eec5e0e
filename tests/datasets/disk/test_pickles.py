"""Pickles of arrays are read as NumPy writes them; whatever else they name is not run."""

import copyreg
import io
import os
import pickle
import random
import sys

import numpy as np
import pytest

from mmlab.datasets.disk.files import DamagedError
from mmlab.datasets.disk.pickles import read_array, read_pickle, read_stream

VALUES = {
    "train": {
        "text": np.arange(12, dtype=np.float32).reshape(2, 2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "id": np.array([[b"a", b"1"], [b"bcd", b"2"]]),
        "raw": np.array(["good", "very bad"]),
        "ragged": np.array([[1, 2], [3]], dtype=object),
        "nested": np.array([np.arange(2), None], dtype=object),
        "empty": np.zeros((0, 5)),
        "number": np.float64(0.5),
        "flag": np.bool_(True),
        "lengths": [3, 2**70, -1],
        "name": "speech",
        "none": None,
        "bytes": b"\x00\xff",
    }
}


def same(one, other):
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in other)
    if isinstance(other, np.ndarray):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and all(same(a, b) for a, b in zip(one.flat, other.flat, strict=True))
    return type(one) is type(other) and one == other


def read(content):
    return read_stream(io.BytesIO(content), len(content), "it")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("spelling", [b"numpy.core", b"numpy._core"])
def test_arrays_of_every_protocol_and_spelling(protocol, spelling):
    content = pickle.dumps(VALUES, protocol)
    written = b"numpy._core" if b"numpy._core" in content else b"numpy.core"  # before NumPy 2
    if protocol in (0, 1, 2, 3):  # with later ones the name's length stands before it
        content = content.replace(written, spelling)
    elif spelling != written:
        for name in (b".multiarray", b".numeric"):
            before, after = written + name, spelling + name
            content = content.replace(
                b"\x8c" + bytes([len(before)]) + before, b"\x8c" + bytes([len(after)]) + after
            )
        content = b"\x80" + bytes([protocol]) + unframed(content[2:])
    assert spelling in content
    found = read(content)
    assert same(found, VALUES)
    found["train"]["text"][0] = 1  # ours to change


def unframed(content):
    """Without the frame, whose length is another one now."""
    return content[9:] if content[:1] == b"\x95" else content


def test_a_pickle_of_python_2():
    """Its bytes are texts, in protocol 2."""
    array = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R("
        b"K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00\xc0tb."
    )
    assert read(array).tolist() == [1, -2]


class Harm:
    """What a stranger's pickle may hold."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_names_os_system_is_refused(protocol, tmp_path):
    file = tmp_path / "harm"
    content = pickle.dumps({"train": Harm(os.system, f"touch {file}")}, protocol)
    with pytest.raises(DamagedError, match=r"it names (posix|nt)\.system.*allowed are numbers"):
        read(content)
    assert not file.exists()


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (eval, ("1",)),
        (np.load, ("x.npy",)),
        (np.fromfile, ("x",)),
        (getattr, (1, "real")),
        (np.ndarray, ((2,), "O")),
        (bytearray, (3,)),
    ],
)
def test_other_names_are_refused(call, arguments):
    with pytest.raises(DamagedError, match=r"it (names|calls)"):
        read(pickle.dumps(Harm(call, *arguments)))


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\ndtype\n}S'__call__'\nNsb.",  # sets an attribute of what it calls
        b"cnumpy\ndtype\n(S'f8'\ntR(I3\nS'%'\nNNNI1\nI1\nI0\ntb.",  # a byte order that is none
        b"cnumpy\ndtype\n(S'V8'\ntR.",
        b"cnumpy\ndtype\n(S'f8,O'\ntR.",
        b"(lp0\ng0\na.",  # a list within itself
        b"\x80\x04\x96\x00\x00\x00\x00\x00\x00\x00\x7f.",  # 9 EB of bytes are said to follow
        b"\x80\x04r\xff\xff\xff\x7f.",
        b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(S'ab'\nI9\ntN\x89S'x'\ntb.",
        b"P1\n.",
        b"",
    ],
)
def test_crafted_pickles_are_refused(content):
    with pytest.raises(DamagedError, match="it cannot be read as a pickle of arrays"):
        read(content)


DOUBLING = b"(I1\ntp0\n0" + b"".join(b"(g%d\ng%d\ntp%d\n0" % (i, i, i + 1) for i in range(60))
DOUBLING += b"g60\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # a tuple of two of a tuple of two of …: written out, it has 2^60 values
        (DOUBLING + b".", "more than 4 times as large as its file"),
        (b"}" + DOUBLING + b"I1\ns.", "a dict whose key is a tuple"),
        (b"\x80\x04}(" + DOUBLING + b"I1\nu.", "a dict whose key is a tuple"),
        (b"(" + DOUBLING + b"I1\nd.", "a dict whose key is a tuple"),
        (b"\x80\x04\x8f.", "KeyError"),  # a set
        (
            b"cnumpy.core.numeric\n_frombuffer\n(S'x'\ncnumpy\ndtype\n(S'f8'\ntR"
            + DOUBLING
            + b"S'C'\ntR.",
            "an array of the shape",
        ),
        (b"\x80\x04}" + b")" + b"\x85" * 10**5 + b"I1\ns.", "a dict whose key is a tuple"),
        (b"\x80\x04\x96" + (10**12).to_bytes(8, "little") + b".", "1000000000000 bytes are said"),
        (b"]I1\nI2\ns.", "sets items of what is no dict"),
    ],
)
def test_small_pickles_do_not_become_large(content, message):
    with pytest.raises(DamagedError, match=message) as caught:
        read(content)
    assert len(str(caught.value)) < 1000


def test_content_that_is_named_again_counts_again():
    """Each array is a few bytes of the file; all of them have one content of 80 kB."""
    one = b"cnumpy.core.numeric\n_frombuffer\n(g0\ng1\n(I80000\ntS'C'\ntR"
    start = b"\x80\x04(B" + (80_000).to_bytes(4, "little") + bytes(80_000)
    start += b"p0\ncnumpy\ndtype\n(S'u1'\ntRp1\n0"
    assert read(start + one + b"l.")[1].shape == (80_000,)
    with pytest.raises(DamagedError, match="4 times as large"):
        read(start + one * 100 + b"l.")
    texts = b"(V" + b"a" * 10_000 + b"\np0\n"
    texts += b"c_codecs\nencode\n(g0\nS'latin1'\ntR" * 100 + b"l."
    with pytest.raises(DamagedError, match="4 times as large"):
        read(texts)


def test_an_extension_that_the_process_knows_is_refused():
    copyreg.add_extension("os", "system", 7)
    try:
        copyreg._extension_cache[7] = os.system
        with pytest.raises(DamagedError, match="it names the extension 7"):
            read(b"\x80\x02\x82\x07.")
    finally:
        copyreg.remove_extension("os", "system", 7)
        copyreg._extension_cache.pop(7, None)


def test_objects_are_never_made_of_bytes():
    """Memory of the writer's choosing would count as Python objects."""
    content = pickle.dumps(np.array([1.5]), 2).replace(
        b"X\x02\x00\x00\x00f8", b"X\x02\x00\x00\x00O8"
    )
    assert b"O8" in content
    with pytest.raises(DamagedError, match="without its values"):
        read(content)


def test_mutated_pickles_are_read_or_refused_and_run_nothing():
    """600 of them; an audit hook hears whatever opens a file, imports, or starts a program."""
    seeds = [pickle.dumps(VALUES, protocol) for protocol in range(6)]
    seeds += [pickle.dumps({"a": Harm(os.system, "true")}, protocol) for protocol in range(6)]
    draw, heard, outcomes = random.Random(0), [], {"read": 0, "refused": 0}
    listening = True

    def listen(event, arguments):
        if listening and event.startswith(
            ("os.", "subprocess", "exec", "compile", "import", "open")
        ):
            heard.append((event, arguments))

    read(seeds[0])  # what is imported on the first use is imported now
    sys.addaudithook(listen)
    for number in range(600):
        content = bytearray(seeds[number % len(seeds)])
        for _ in range(draw.randint(1, 8)):
            place = draw.randrange(len(content))
            match draw.randrange(4):
                case 0:
                    content[place] = draw.randrange(256)
                case 1:
                    del content[place : place + draw.randint(1, 9)]
                case 2:
                    content[place:place] = draw.randbytes(draw.randint(1, 5))
                case 3:
                    other = draw.choice(seeds)
                    start = draw.randrange(len(other))
                    content[place:place] = other[start : start + draw.randint(1, 60)]
        try:
            read(bytes(content))
            outcomes["read"] += 1
        except DamagedError:
            outcomes["refused"] += 1
    listening = False
    assert heard == []
    assert sum(outcomes.values()) == 600 and outcomes["refused"] > 200


def test_a_file_that_is_cut_off_or_missing_or_no_pickle(tmp_path):
    file = tmp_path / "mosi.pkl"
    with pytest.raises(FileNotFoundError, match=r"mosi\.pkl is missing"):
        read_pickle(file)
    file.write_bytes(pickle.dumps(VALUES)[:-100])
    with pytest.raises(DamagedError, match=r"mosi\.pkl cannot be read as a pickle"):
        read_pickle(file)
    file.write_bytes(b"<html>")
    with pytest.raises(DamagedError, match="is a web page"):
        read_pickle(file)


def test_arrays_of_files(tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, np.arange(3))
    assert isinstance(read_array(file), np.memmap) and read_array(file).tolist() == [0, 1, 2]
    np.save(file, np.array([[1, 2], [3]], dtype=object), allow_pickle=True)
    assert read_array(file).tolist() == [[1, 2], [3]]
    np.save(file, np.array([Harm(os.system, "true")]), allow_pickle=True)
    with pytest.raises(DamagedError, match=r"it names (posix|nt)\.system"):
        read_array(file)
    np.save(file, np.array([[1, 2], [3]], dtype=object), allow_pickle=True)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"(2,)", b"(3,)"))
    with pytest.raises(DamagedError, match=r"header says \(3,\), and something else follows"):
        read_array(file)
    file.write_bytes(content[: content.index(b"\n") + 1] + pickle.dumps({"a": 1}))
    with pytest.raises(DamagedError, match="header says"):
        read_array(file)
    file.write_bytes(b"\x93NUMPY")
    with pytest.raises(DamagedError, match=r"x\.npy is no whole \.npy file"):
        read_array(file)
