"""What the tests of policies share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from proxy.errors import ProxyError
from proxy.testing import called

Refusal = Callable[..., Awaitable[ProxyError]]


@pytest.fixture
def refusal() -> Refusal:
    """Calls a phase that must refuse and returns the error."""

    async def run(phase: Callable[..., Any], *args: Any) -> ProxyError:
        with pytest.raises(ProxyError) as caught:
            await called(phase(*args))
        return caught.value

    return run
