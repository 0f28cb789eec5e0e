"""What the embedded sets share: whole groups in one split."""

import numpy as np
import pytest
import torch

from mmlab.datasets.embedded import whole_groups

GROUPS = np.repeat(np.arange(40), np.arange(40) % 7 + 1)


@pytest.mark.parametrize("seed", range(5))
def test_a_group_lies_in_one_split_and_no_row_is_lost(seed):
    rows = whole_groups(GROUPS, (0.6, 0.1, 0.3), seed, "set")
    assert list(rows) == ["train", "holdout", "test"]
    assert torch.equal(torch.cat(list(rows.values())).sort().values, torch.arange(len(GROUPS)))
    members = [set(GROUPS[row]) for row in rows.values()]
    assert sum(map(len, members)) == 40 == len(set().union(*members))
    shares = [len(row) / len(GROUPS) for row in rows.values()]
    assert shares == pytest.approx([0.6, 0.1, 0.3], abs=7 / len(GROUPS))


def test_groups_are_drawn_by_the_seed_and_by_the_name_of_the_set():
    one, again = (whole_groups(GROUPS, (0.6, 0.1, 0.3), 3, "set") for _ in range(2))
    assert all(torch.equal(one[part], again[part]) for part in one)
    for seed, name in ((4, "set"), (3, "other")):
        other = whole_groups(GROUPS, (0.6, 0.1, 0.3), seed, name)
        assert not torch.equal(one["train"], other["train"])


def test_names_of_groups_may_be_text():
    rows = whole_groups(np.array(["a", "b", "c", "a"]), (0.5, 0.25, 0.25), 0, "set")
    assert sorted(torch.cat(list(rows.values())).tolist()) == [0, 1, 2, 3]
