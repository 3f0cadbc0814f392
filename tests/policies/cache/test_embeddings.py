"""An embeddings answer cut into parts and put together again."""

from __future__ import annotations

import orjson
import pytest

from proxy.policies.cache.embeddings import Part, entry_of, merged, part_of, rows_of


def answer(*vectors, **more):
    data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 10 * len(vectors)}, **more}


def parts(tree, items):
    return [row.part() for row in rows_of(tree, items)]


@pytest.mark.parametrize(
    "vector", [[0.1, -2.5e-8, 3], "AAAA", [], [[0.1], [0.2]], {"float": [0.1]}, ["text", 0.1]], ids=str
)
def test_a_vector_comes_back_as_it_was_whatever_it_is(vector):
    tree = answer(vector, [1.5])
    whole = orjson.loads(merged(parts(tree, ["a", "b"])))
    assert whole["data"] == [
        {"object": "embedding", "index": 0, "embedding": vector},
        {"object": "embedding", "index": 1, "embedding": [1.5]},
    ]
    assert whole["usage"] == {"prompt_tokens": 20, "total_tokens": 20}


def test_what_stands_beside_a_vector_stays_with_it():
    tree = answer([0.1], [0.2], [0.3])
    tree["data"][1]["truncated"] = True
    del tree["data"][2]["object"]
    beside = [
        {key: value for key, value in one.items() if key not in ("index", "embedding")}
        for one in orjson.loads(merged(parts(tree, ["a", "b", "c"])))["data"]
    ]
    assert beside == [{"object": "embedding"}, {"object": "embedding", "truncated": True}, {}]


def test_a_text_that_comes_among_the_numbers_before_they_are_written_is_not_written():
    """A policy above the cache edits the tree of the same answer, and puts back what was masked."""
    tree = answer([0.1, 0.2])
    [row] = rows_of(tree, ["a"])
    tree["data"][0]["embedding"][1] = "ann@example.com"
    assert row.part() is None


def test_a_provider_that_counts_nothing_is_not_said_to_have_counted_zero():
    tree = answer([0.1], [0.2])
    del tree["usage"]
    found = parts(tree, ["a", "b"])
    assert [part.tokens for part in found] == [None, None]
    assert "usage" not in orjson.loads(merged(found))
    again = [part_of(entry_of(part, 0.0, 60.0)) for part in found]
    assert again == found


def test_what_is_counted_of_some_only_is_not_said():
    found = [Part(b'{"embedding":[1]}', 3, "m"), Part(b'{"embedding":[2]}', None, "m")]
    assert "usage" not in orjson.loads(merged(found))


@pytest.mark.parametrize(
    "tree",
    [
        None,
        {"data": []},
        {"data": [{"index": 0}]},
        {"data": ["text"]},
        answer([0.1], [0.2]),
        answer([0.1], error={"message": "no"}),
    ],
    ids=str,
)
def test_what_does_not_fit_the_inputs_is_no_answer(tree):
    assert rows_of(tree, ["a"]) is None
