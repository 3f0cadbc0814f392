"""The gradient limit: shrinks with latency, grows when it is used, stays within its bounds."""

import pytest

from proxy.gradient import Gradient


def feed(gradient, latency, times, in_flight=None):
    for _ in range(times):
        gradient.answered(latency, gradient.limit if in_flight is None else in_flight)


def test_it_shrinks_when_latency_rises_and_grows_again_after():
    gradient = Gradient(4, 100, 50)
    feed(gradient, 0.1, 50)
    steady = gradient.limit
    assert steady >= 50
    feed(gradient, 1.0, 100)
    shrunk = gradient.limit
    assert shrunk < steady * 0.7
    feed(gradient, 0.1, 300)
    assert gradient.limit > shrunk


def test_an_unused_limit_does_not_grow():
    gradient = Gradient(1, 1000, 10)
    feed(gradient, 0.1, 500, in_flight=1)
    assert gradient.limit == 10


@pytest.mark.parametrize(("latency", "bound"), [(0.0, 20), (0.1, 20)])
def test_it_never_leaves_its_bounds(latency, bound):
    gradient = Gradient(5, 20, 500)
    assert gradient.limit == 20
    feed(gradient, latency, 500)
    assert gradient.limit == bound
    for _ in range(100):
        gradient.overloaded()
    assert gradient.limit == 5
    assert repr(gradient).startswith("<Gradient 5 in 5..20")
