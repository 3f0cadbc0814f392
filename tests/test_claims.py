"""What a client says of its call in ``x-sidecar-*`` headers."""

from __future__ import annotations

import pytest

from proxy.claims import read_sidecar_headers
from proxy.testing import exchange_builder


def claimed(**headers: str):
    exchange = exchange_builder()
    read_sidecar_headers(exchange, {f"x-sidecar-{name}": value for name, value in headers.items()})
    return exchange


@pytest.mark.parametrize(
    ("said", "tags"),
    [
        ("a=b,c=d", {"a": "b", "c": "d"}),
        ("e=f=g", {"e": "f=g"}),
        (" a = b , c=", {"a": "b", "c": ""}),
        ("a=b,,c,=d", {"a": "b"}),
    ],
)
def test_tags_are_split_at_commas_and_there_at_the_first_equals_sign(said, tags):
    assert claimed(tags=said).tags == tags


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_task_or_project_is_none(empty):
    exchange = claimed(task=empty, project=empty)
    assert (exchange.task, exchange.tags, exchange.project) == (None, {}, None)
    assert (exchange.dimension("task"), exchange.dimension("project")) == ("-", "-")
