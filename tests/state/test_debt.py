"""What is kept while Redis is away: sums, not stories."""

from proxy.state import Bucket, Counter, Slots, Window
from proxy.state.debt import KEPT_MESSAGES, Debt, encode

RPM, TOKENS, USD, SLOTS = Window("rpm", 10), Bucket("b", 1, 10), Counter("usd", 100, ttl=60), Slots("s", 5)


def test_bookings_of_one_second_are_one_entry_and_settlements_correct_them():
    debt = Debt()
    for _ in range(100):
        debt.taken((RPM, 1), 50.2)
        debt.taken((TOKENS, 5), 50.2)
        debt.taken((USD, 30), 50.2)
        debt.taken((SLOTS, 1), 50.2)
    for claim, actual in (((RPM, 1), 0), ((TOKENS, 5), 2), ((USD, 30), 12), ((SLOTS, 1), 0)):
        debt.settled(claim, actual, 50.2)
    assert len(debt) == 3
    told = {message[1][1]: message[1][3] for message, _ in debt.messages(51.0)}
    assert told == {"rpm": 99, "b": 497, "usd": 12}
    assert len(debt) == 0


def test_windows_that_are_past_are_not_told():
    debt = Debt()
    debt.add(RPM, 5, 100.0)
    debt.add(RPM, 3, 150.0)
    told = debt.messages(165.0)
    assert [(message[1][3], message[2]) for message, _ in told] == [(3, 15_000)]


def test_it_stays_small_through_a_long_outage():
    debt = Debt()
    for second in range(3 * KEPT_MESSAGES):
        debt.add(RPM, 1, float(second))
        debt.said.append(["put"])
    assert len(debt) <= 2 * KEPT_MESSAGES + 1


def test_what_could_not_be_told_can_be_owed_again():
    debt = Debt()
    debt.add(USD, 7, 1.0)
    ((_, source),) = debt.messages(2.0)
    debt.add(*source)
    assert debt.spent(USD) == 7


def test_amounts_reach_redis_whole():
    assert encode(Counter("c", 5, 60, span=10, cell=2), 3.9) == ["c", "c", 5, 3, 60_000, 10_000, 2_000]
    assert encode(SLOTS, 1) == ["s", "s", 5, 1]
