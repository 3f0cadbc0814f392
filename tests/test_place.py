"""Places in bodies as errors and logs name them: names, never values."""

from __future__ import annotations

import pytest

from proxy.place import place, step


@pytest.mark.parametrize("name", ["content", "max_tokens", "X-Header", "line2", "_", "topP"])
def test_a_name_is_shown(name: str) -> None:
    assert step(name) == name


@pytest.mark.parametrize(
    "value",
    ["ann@acme.io", "4111111111111111", "DE89370400440532013000", "ghp_16C7e42F292c", "Ann Lee", "", "a\n", "x" * 41],
)
def test_a_key_that_may_be_a_value_is_not(value: str) -> None:
    assert step(value) == "?"


def test_a_path_is_dotted_and_its_values_are_left_out() -> None:
    assert place(("messages", 2, "content")) == "messages[2].content"
    assert place((0, "text")) == "[0].text"
    assert place(("data", "ann@acme.io", 1, "card")) == "data.?[1].card"
