"""Turns: priority first, then owners in turn."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.fair_queue import RANK, FairQueue


def drain(queue):
    return [queue.pop() for _ in range(len(queue))]


def test_priority_comes_first_then_turns_between_owners():
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.add(f"a{number}", "anna", "normal")
    queue.add("b0", "ben", "normal")
    queue.add("c0", "cleo", "background")
    queue.add("d0", "dora", "critical")
    assert queue.peek() == "d0"
    assert repr(queue) == "<FairQueue critical 1, normal 4, background 1>"
    assert (queue.ahead("critical"), queue.ahead("normal")) == (1, 5)
    assert drain(queue) == ["d0", "a0", "b0", "a1", "a2", "c0"]
    assert queue.pop() is None and queue.peek() is None and repr(queue) == "<FairQueue empty>"


def test_the_last_of_the_least_urgent_gives_way_to_a_more_urgent_one_only():
    queue: FairQueue[str] = FairQueue()
    queue.add("high", "a", "high")
    queue.add("old", "b", "background")
    queue.add("new", "b", "background")
    assert queue.drop_least_urgent("normal") == "new"
    assert queue.drop_least_urgent("background") is None
    assert queue.drop_least_urgent("critical") == "old"
    assert queue.drop_least_urgent("high") is None
    assert queue.drop_least_urgent("critical") == "high"


def test_who_left_is_not_served():
    queue: FairQueue[str] = FairQueue()
    queue.add("a", "anna", "normal")
    assert queue.remove("a", "anna", "normal")
    assert not queue.remove("a", "anna", "normal")
    assert len(queue) == 0


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(sorted(RANK))), max_size=60))
def test_everybody_is_served_once_in_order_of_urgency(entries):
    queue: FairQueue[tuple[int, str, str]] = FairQueue()
    for number, (owner, priority) in enumerate(entries):
        queue.add((number, owner, priority), owner, priority)
    served = drain(queue)
    assert sorted(served) == [(number, owner, priority) for number, (owner, priority) in enumerate(entries)]
    assert [RANK[entry[2]] for entry in served] == sorted(RANK[entry[2]] for entry in served)
