"""IEMOCAP: two actors in dialogue; the voice and the words of each turn, and its emotion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mmlab.checks import check_choice, check_whole
from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.files import DamagedError
from mmlab.datasets.disk.found import Found, Sample
from mmlab.datasets.disk.lists import find, notes_of, read_lines
from mmlab.datasets.disk.sound import Sound
from mmlab.datasets.disk.spectrograms import RECIPES, describe
from mmlab.datasets.disk.text import Words

EMOTIONS = {
    "ang": "anger",
    "hap": "happiness",
    "exc": "happiness",
    "neu": "neutral",
    "sad": "sadness",
}
CLASSES = tuple(sorted(set(EMOTIONS.values())))
LABEL = re.compile(r"\[\d+\.\d+ - \d+\.\d+\]\t(\w+)\t(\w+)\t\[.*\]")
SPOKEN = re.compile(r"(Ses\w+) \[[\d.]+-[\d.]+\]: (.*)")
LISTS = {"my_train_iemo.txt": "train", "my_test_iemo.txt": "test"}
CARD = """\
IEMOCAP: Busso and others, Language Resources and Evaluation 2008, doi:10.1007/s10579-008-9076-6;
given out on request, under a licence for research. 10 039 turns of ten actors in five sessions;
the 5531 with anger, happiness (with excitement), sadness or none are the usual four classes. Each
session has two actors of its own. MLA's lists (3318 and 1107 turns) have all 151 dialogues on both
sides."""


def find_iemocap(root: Path, *, sound: str = "mla", words: int = 40) -> Found:
    """Audio (the recipe's shape); text {"values", "mask"} (words,). Target: one of 4 emotions.

    The parts are MLA's, where its lists are there.
    """
    check_choice("sound", sound, RECIPES)
    check_whole("words", words, least=1)
    parts = _parts(root)
    sessions = [find(root, f"Session{number}") for number in range(1, 6)]
    samples = [sample for session in sessions for sample in _samples(session, parts)]
    return Found(
        samples,
        CLASSES,
        {"audio": Sound(sound), "text": Words(words)},
        {"audio": describe(sound), "text": "hashes of words"},
        CARD,
        "sessions",
        notes=notes_of(parts, [sample.name for sample in samples]),
    )


def _parts(root: Path) -> dict[str, str]:
    """Turn -> part: MLA's lines, `TURN.mp4 [split|sign] TEXT [split|sign] LABEL`."""
    return {
        Path(line.split(" [split|sign] ")[0].split()[0]).stem: part
        for name, part in LISTS.items()
        if (root / name).is_file()
        for _, line in read_lines(root / name)
    }


def _samples(session: Path, parts: dict[str, str]) -> Iterator[Sample]:
    for path in sorted(find(session, "dialog/EmoEvaluation").glob("Ses*.txt")):
        spoken = dict(_spoken(session / "dialog/transcriptions" / path.name))
        for turn, emotion in _rated(path):
            if emotion in EMOTIONS:
                if turn not in spoken:
                    raise DamagedError(
                        f"{path} rates {turn}, and its transcription does not have it"
                    )
                yield Sample(
                    turn,
                    CLASSES.index(EMOTIONS[emotion]),
                    parts.get(turn, ""),
                    session.name,
                    {
                        "audio": session / "sentences/wav" / path.stem / f"{turn}.wav",
                        "text": spoken[turn],
                    },
                )


def _rated(path: Path) -> Iterator[tuple[str, str]]:
    """Turn and emotion: the lines that begin with a time; those below them are single raters'."""
    for _, line in read_lines(path):
        if found := LABEL.fullmatch(line):
            yield found[1], found[2]


def _spoken(path: Path) -> Iterator[tuple[str, str]]:
    for _, line in read_lines(path):
        if found := SPOKEN.fullmatch(line):
            yield found[1], found[2]


load_iemocap = DiskSet("iemocap", find_iemocap, ("session", "published"), shares=(0.6, 0.2, 0.2))
