"""The window's meter against a plain list of what was booked: the same sums, whenever somebody looks."""

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.state.limits import Share, Window
from proxy.state.meters import WindowMeter

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "settle", "look", "leave"]), st.integers(0, 30), st.floats(0, 8),
    ),
    max_size=80,
)  # fmt: skip


class Bookings:
    """Every booking as [end of its cell, amount]."""

    def __init__(self, window):
        self.window = window
        self.all = []

    def end(self, moment):
        window = self.window
        return (moment + window.grace) // window.cell * window.cell + window.cell

    def book(self, moment, amount):
        self.all.append([self.end(moment), amount])

    def used(self, now):
        return sum(amount for end, amount in self.all if end > now - self.window.span)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_the_meter_says_what_a_list_of_all_bookings_says(steps):
    window, share, now = Window("w", 100, span=10.0), Share(), 1000.3
    meter, bookings, open_calls, before = WindowMeter(window), Bookings(window), [], None
    for what, number, pause in steps:
        now += pause if number % 4 == 0 else pause / 50
        used = bookings.used(now)
        if what == "ask":
            fits = meter.ask(window, number, now, share) == 0.0
            assert fits == (used + number <= window.limit)
            if fits:
                bookings.book(now, number)
                open_calls.append((now, number))
        elif what == "settle" and open_calls:
            stamp, amount = open_calls.pop(number % len(open_calls))
            actual = (number * 3) % (amount + 5)
            if bookings.end(stamp) > now - window.span:  # else it is over, and nobody counts it
                bookings.book(stamp, actual - amount)
            meter.settle(window, amount, actual, stamp, now, share)
        elif what == "leave":
            meter.leave()
            before = bookings.used(now)
        elif what == "look":
            assert meter.used(now) == used
            assert sum(meter.cells.values()) == meter.total == used
            assert meter.usage(window, now).used == used
            if before is not None:
                assert meter.before == sum(meter.old.values()) <= before
    assert meter.used(now) == bookings.used(now)
