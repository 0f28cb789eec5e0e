"""All methods, one line per method: what exports, figures, the benchmark, tables and tests go by.

To add a method: write its file, and enter it here, once for type checkers and once in `METHODS`.
This file loads nothing, so that the names are there before torch is.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmlab.files import write_atomically

if TYPE_CHECKING:
    from mmlab.balancers.agm import AGM as AGM
    from mmlab.balancers.atf import ATF as ATF
    from mmlab.balancers.blend import Blend as Blend
    from mmlab.balancers.cml import CML as CML
    from mmlab.balancers.controls import EncoderRates as EncoderRates
    from mmlab.balancers.controls import Ensemble as Ensemble
    from mmlab.balancers.controls import RefittedHead as RefittedHead
    from mmlab.balancers.controls import ScaledInputs as ScaledInputs
    from mmlab.balancers.dgl import DGL as DGL
    from mmlab.balancers.gblend import GradientBlending as GradientBlending
    from mmlab.balancers.inforeg import InfoReg as InfoReg
    from mmlab.balancers.joint import Uniform as Uniform
    from mmlab.balancers.lfm import LFM as LFM
    from mmlab.balancers.mla import MLA as MLA
    from mmlab.balancers.mmcosine import MMCosine as MMCosine
    from mmlab.balancers.mmpareto import MMPareto as MMPareto
    from mmlab.balancers.ogm import OGM as OGM
    from mmlab.balancers.opm import OPM as OPM
    from mmlab.balancers.pmr import PMR as PMR
    from mmlab.balancers.reconboost import ReconBoost as ReconBoost
    from mmlab.balancers.relearning import Relearning as Relearning
    from mmlab.balancers.smv import SMV as SMV
    from mmlab.balancers.umt import UMT as UMT
    from mmlab.training.balancer import Balancer
    from mmlab.training.balancer import Joint as Joint


class Method(NamedTuple):
    """One method, with its usual settings.

    home:     the module in which its class is.
    kind:     the name of its class.
    sentence: what it does, in one sentence.
    paper:    where it comes from: authors, venue and year, or "–" where there is no paper.
    floor:    the theoretical minimum of a step's cost, in joint steps (mmlab/balancers/README.md).
    floor_linear: the same where all encoders are linear layers, if that is lower.
    look:     colour, line style and marker in figures; no two methods share the last two.
    options:  arguments of the class.
    needs:    what it cannot do without: "labels" (no regression), "shared head", "SGD" (no adaptive
              optimiser), "trials" (it trains copies), "own order" (it chooses the samples of an
              epoch, so that seeds train one by one).
    """

    home: str
    kind: str
    sentence: str
    paper: str
    floor: float
    look: tuple[str, Any, str]
    options: Mapping[str, Any] = {}
    floor_linear: float | None = None
    needs: tuple[str, ...] = ()

    def make(self) -> Balancer:
        """A fresh balancer."""
        return getattr(import_module(self.home), self.kind)(**self.options)


_HERE = "mmlab.balancers."
_ATF = "Sun, Mai, Hu, IEEE SPL 2021"
_OGM = "Peng et al., CVPR 2022"

METHODS: dict[str, Method] = {
    "joint": Method(
        "mmlab.training.balancer",
        "Joint",
        "one loss, on the fused logits",
        "–",
        floor=1,
        look=("#000000", "-", "o"),
    ),
    "uniform": Method(
        _HERE + "joint",
        "Uniform",
        "add the unimodal losses to the joint loss: the baseline with the same losses",
        "–",
        floor=1,
        look=("#7F7F7F", (0, (5, 1)), "v"),
    ),
    "G-Blend": Method(
        _HERE + "gblend",
        "GradientBlending",
        "weigh each loss by its gain on the holdout, divided by the square of its overfitting",
        "Wang, Tran, Feiszli, CVPR 2020",
        floor=1,
        look=("#E69F00", (0, (8, 2)), "d"),
        needs=("trials",),
    ),
    "ACE": Method(
        _HERE + "atf",
        "ATF",
        "scale each encoder's update by a factor that follows the encoder's loss",
        _ATF,
        floor=1,
        look=("#56B4E9", (0, (1, 1)), "<"),
        options={"update": "ace"},
        needs=("shared head",),
    ),
    "BDO": Method(
        _HERE + "atf",
        "ATF",
        "the same, and correct the factors by the losses after the update",
        _ATF,
        floor=4 / 3,
        look=("#E69F00", (0, (3, 1)), ">"),
        options={"update": "bdo"},
        needs=("shared head",),
    ),
    "OGM": Method(
        _HERE + "ogm",
        "OGM",
        "shrink the gradient of the encoder that is ahead",
        _OGM,
        floor=1,
        look=("#009E73", (0, (6, 1, 1, 1)), "p"),
        options={"enhance": False},
        needs=("labels",),
    ),
    "OGM-GE": Method(
        _HERE + "ogm",
        "OGM",
        "the same, and add noise to the gradients of all encoders",
        _OGM,
        floor=1,
        look=("#CC79A7", (0, (3, 1, 1, 1, 1, 1)), "*"),
        needs=("labels",),
    ),
    "MMPareto": Method(
        _HERE + "mmpareto",
        "MMPareto",
        "combine joint and unimodal gradient into a step that opposes neither",
        "Wei, Hu, ICML 2024",
        floor=5 / 3,
        look=("#56B4E9", (0, (12, 2)), "P"),
        floor_linear=4 / 3,
    ),
    "MLA": Method(
        _HERE + "mla",
        "MLA",
        "train the modalities in turn; a projection protects what the shared head has learnt",
        "Zhang et al., CVPR 2024",
        floor=1,
        look=("#009E73", (0, (2, 2)), "X"),
        needs=("shared head", "SGD"),
    ),
    "AGM": Method(
        _HERE + "agm",
        "AGM",
        "slow a modality that is further ahead than usual, by its Shapley value in the logits",
        "Li et al., ICCV 2023",
        floor=1,
        look=("#009E73", (0, (9, 1, 2, 1)), "h"),
        needs=("labels",),
    ),
    "PMR": Method(
        _HERE + "pmr",
        "PMR",
        "pull the features of the modality that is behind towards their class means",
        "Fan et al., CVPR 2023",
        floor=1,
        look=("#CC79A7", (0, (4, 1)), "H"),
        needs=("labels",),
    ),
    "OPM": Method(
        _HERE + "opm",
        "OPM",
        "drop feature vectors of the modality that is ahead, at random",
        "Wei et al., TPAMI 2024",
        floor=1,
        look=("#56B4E9", (0, (2, 1)), "8"),
        needs=("labels",),
    ),
    "MMCosine": Method(
        _HERE + "mmcosine",
        "MMCosine",
        "add cosines of features and class weights in the fusion: lengths do not count",
        "Xu et al., ICASSP 2023",
        floor=1,
        look=("#E69F00", (0, (10, 1, 1, 1)), "$c$"),
        needs=("labels",),
    ),
    "UMT": Method(
        _HERE + "umt",
        "UMT",
        "keep each encoder's features close to those of a teacher that was trained alone",
        "Du et al., ICML 2023",
        floor=4 / 3,
        look=("#56B4E9", (0, (7, 1)), "$u$"),
        needs=("trials",),
    ),
    "D&R": Method(
        _HERE + "relearning",
        "Relearning",
        "move an encoder back towards its initial weights; the more it overfits, the further",
        "Wei et al., ECCV 2024",
        floor=1,
        look=("#E69F00", (0, (2, 3)), "$r$"),
        needs=("labels",),
    ),
    "LFM": Method(
        _HERE + "lfm",
        "LFM",
        "align the modalities first, then give classification more and more weight",
        "Yang et al., NeurIPS 2024",
        floor=1,
        look=("#CC79A7", (0, (9, 3)), "$f$"),
    ),
    "CML": Method(
        _HERE + "cml",
        "CML",
        "penalise confidence that grows when a modality is removed",
        "Ma et al., ICML 2023",
        floor=1,
        look=("#009E73", (0, (4, 3)), "$m$"),
        needs=("labels",),
    ),
    "ReconBoost": Method(
        _HERE + "reconboost",
        "ReconBoost",
        "train the modalities in turn, as in boosting, and add up their logits",
        "Hua et al., ICML 2024",
        floor=1,
        look=("#E69F00", (0, (6, 3, 1, 3)), "$b$"),
        needs=("labels", "shared head"),
    ),
    "SMV": Method(
        _HERE + "smv",
        "SMV",
        "repeat samples with only the modality that contributes least to the right answer",
        "Wei et al., CVPR 2024",
        floor=1,
        look=("#56B4E9", (0, (1, 2, 4, 2)), "$v$"),
        needs=("labels", "own order"),
    ),
    "DGL": Method(
        _HERE + "dgl",
        "DGL",
        "train each encoder by its own loss alone, and the fusion by the joint loss alone",
        "Wei et al., ICCV 2025",
        floor=1,
        look=("#CC79A7", (0, (15, 2)), "$d$"),
    ),
    "InfoReg": Method(
        _HERE + "inforeg",
        "InfoReg",
        "uniform; early on, pull the encoder that is ahead to its weights at the epoch's start",
        "Huang et al., CVPR 2025",
        floor=1,
        look=("#009E73", (0, (3, 3, 1, 1)), "$i$"),
        needs=("labels",),
    ),
    "PCGrad": Method(
        _HERE + "blend",
        "Blend",
        "if two gradients conflict, take from each its part along the other",
        "Yu et al., NeurIPS 2020",
        floor=5 / 3,
        look=("#E69F00", (0, (8, 1, 1, 1, 1, 1)), "1"),
        options={"weighting": "pcgrad"},
        floor_linear=4 / 3,
    ),
    "CAGrad": Method(
        _HERE + "blend",
        "Blend",
        "of the steps near the mean gradient, take the one that helps the worse-off loss most",
        "Liu et al., NeurIPS 2021",
        floor=5 / 3,
        look=("#56B4E9", (0, (1, 4)), "2"),
        options={"weighting": "cagrad"},
        floor_linear=4 / 3,
    ),
    "IMTL-G": Method(
        _HERE + "blend",
        "Blend",
        "take a step that reaches equally far along both gradients",
        "Liu et al., ICLR 2021",
        floor=5 / 3,
        look=("#009E73", (0, (5, 5)), "3"),
        options={"weighting": "imtl-g"},
        floor_linear=4 / 3,
    ),
    "Nash-MTL": Method(
        _HERE + "blend",
        "Blend",
        "let the two losses bargain: make the product of their gains as large as possible",
        "Navon et al., ICML 2022",
        floor=5 / 3,
        look=("#CC79A7", (0, (11, 1, 3, 1)), "4"),
        options={"weighting": "nash-mtl"},
        floor_linear=4 / 3,
    ),
    "Aligned-MTL": Method(
        _HERE + "blend",
        "Blend",
        "make the gradients orthogonal and equally long, then average them",
        "Senushkin et al., CVPR 2023",
        floor=5 / 3,
        look=("#56B4E9", (0, (13, 1, 1, 1, 1, 1)), "+"),
        options={"weighting": "aligned-mtl"},
        floor_linear=4 / 3,
    ),
}
"""Name -> method, in the order in which tables show them."""

CONTROLS = dict.fromkeys(
    ("Ensemble", "ScaledInputs", "EncoderRates", "RefittedHead"), _HERE + "controls"
)
"""What every comparison of methods carries beside them and `DGL`, and where it lives."""

TOOLS = {"Unimodal": _HERE + "joint"}
"""Classes that need an argument, and so are no method yet, and where they live."""


def homes() -> dict[str, str]:
    """Class -> its module, of all methods and tools."""
    return {method.kind: method.home for method in METHODS.values()} | CONTROLS | TOOLS


def markdown() -> str:
    """The table of methods, as README.md shows it."""
    rows = ["| method | in one sentence | class | source |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        options = ", ".join(f"{key}={value!r}" for key, value in method.options.items())
        made = f"`{method.kind}({options})`"
        rows.append(f"| {name} | {method.sentence} | {made} | {method.paper} |")
    return "\n".join(rows)


def write_table(readme: Path) -> None:
    """Put the table of methods where README.md has it.

    Raises:
        ValueError: the file has no such table.
    """
    text = readme.read_text(encoding="utf-8")
    first = markdown().splitlines()[0]
    before, found, rest = text.partition(first)
    if not found:
        raise ValueError(f"{readme} has no table that begins with {first!r}")
    after = rest[rest.index("\n\n") :]
    write_atomically(readme, before + markdown() + after)
