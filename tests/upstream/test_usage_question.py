"""When an error may be about a question that the client did not put."""

from __future__ import annotations

import pytest

from proxy.upstream import usage_question
from proxy.upstream.usage_question import UsageQuestion

NAMED = b'{"error": {"message": "Unknown field stream_options"}}'
VAGUE = b"Bad Request"


def test_only_auto_learns():
    for mode, asks in (("always", True), ("never", False)):
        question = UsageQuestion(mode)
        assert question.asks is asks
        assert not question.may_be_refused(400, NAMED)


@pytest.mark.parametrize(("status", "may"), [(400, True), (422, True), (401, False), (429, False), (500, False)])
def test_only_a_400_or_422_may_be_about_it(status, may):
    assert UsageQuestion("auto").may_be_refused(status, VAGUE) is may


def test_what_helped_is_not_asked_again_and_calls_that_were_on_their_way_are_helped_too():
    question = UsageQuestion("auto")
    question.tried_without(helped=True)
    assert not question.asks
    assert question.may_be_refused(400, VAGUE)


def test_once_accepted_only_an_error_that_names_the_field_is_about_it():
    question = UsageQuestion("auto")
    question.accepted = True
    assert not question.may_be_refused(400, VAGUE)
    assert question.may_be_refused(400, NAMED)


def test_after_a_few_in_vain_one_a_minute(monkeypatch: pytest.MonkeyPatch):
    now = 1_000.0
    monkeypatch.setattr(usage_question, "monotonic", lambda: now)
    question = UsageQuestion("auto")
    for _ in range(5):
        assert question.may_be_refused(400, VAGUE)
        question.tried_without(helped=False)
    assert not question.may_be_refused(400, VAGUE)
    now += 60
    assert question.may_be_refused(400, VAGUE)
    question.tried_without(helped=False)
    assert not question.may_be_refused(400, VAGUE)
