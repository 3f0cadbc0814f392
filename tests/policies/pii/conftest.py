"""One detector for all tests of this folder: building it costs 20 ms."""

from collections.abc import Callable

import pytest

from proxy.policies.pii.detector import Detector

Finds = Callable[..., list[tuple[str, str]]]


@pytest.fixture(scope="session")
def detector() -> Detector:
    return Detector()


@pytest.fixture(scope="session")
def finds(detector: Detector) -> Finds:
    """`finds(text)` gives [(type, value)] in order; `only=` keeps some types."""

    def run(text: str, only: str | None = None, context: str | None = None) -> list[tuple[str, str]]:
        found = [(f.type, text[f.start : f.end]) for f in detector.detect(text, context)]
        return [f for f in found if only is None or f[0] == only]

    return run
