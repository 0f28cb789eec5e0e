"""The command line refuses what it cannot do."""

import pytest

from mmlab.bench.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "1"], "--rounds is 1; quartiles need at least 2"),
        (["speed"], "unknown table speed; allowed: loop, loader"),
        (["loop", "--figure"], "--figure draws scaling, not loop"),
    ],
)
def test_bad_requests_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
