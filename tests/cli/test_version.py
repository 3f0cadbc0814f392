"""``version`` takes ``--config`` as every command does."""

from __future__ import annotations

import pytest

from proxy import __version__
from proxy.cli import run


@pytest.mark.parametrize("arguments", [["version"], ["version", "--config", "x.yaml"], ["version", "-c", "x.yaml"]])
def test_it_prints_the_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
