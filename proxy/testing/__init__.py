"""Fakes for tests of this proxy and of policies written by others: public, and importable without a test framework.

``FakeUpstream`` is a provider on a real socket that does what a script says, mistakes included.
``exchange_builder`` makes the exchange a policy's phases are called with; ``services_builder`` what its constructor
needs; ``policy_builder`` the policy from its YAML options; ``called`` waits for a phase that may be a plain function.
``RunningProxy`` is a whole proxy for whole calls. ``FakeClock`` holds time still. ``chat_answer`` and ``chat_events``
are ready-made provider answers.
"""

from proxy.clock import FakeClock
from proxy.policy import called
from proxy.testing.answers import chat_answer, chat_events, collect_sse
from proxy.testing.building import exchange_builder, policy_builder, services_builder
from proxy.testing.running import RunningProxy
from proxy.testing.script import (
    close,
    events,
    garbage,
    hang,
    reply,
    reset,
)
from proxy.testing.upstream import Call, FakeUpstream, Step

__all__ = [
    "Call",
    "FakeClock",
    "FakeUpstream",
    "RunningProxy",
    "Step",
    "called",
    "chat_answer",
    "chat_events",
    "close",
    "collect_sse",
    "events",
    "exchange_builder",
    "garbage",
    "hang",
    "policy_builder",
    "reply",
    "reset",
    "services_builder",
]
