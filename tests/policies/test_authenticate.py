"""``authenticate`` through the policy interface: each method, and what it settles on the exchange."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey
from pydantic import ValidationError

from proxy.dialects.base import Dialect
from proxy.errors import ProxyError
from proxy.exchange import Exchange
from proxy.policies.authenticate import Authenticate
from proxy.policies.authenticate.options import AuthenticateOptions
from proxy.testing import (
    FakeClock,
    FakeUpstream,
    called,
    exchange_builder,
    hang,
    policy_builder,
    reply,
    services_builder,
)

Refusal = Callable[[Awaitable[Any]], Awaitable[ProxyError]]
KEY = "sk-local-abc"


class Asked(Dialect):
    """An API whose body names the model."""

    def model(self, body: Any) -> str | None:
        return body.get("model")  # type: ignore[no-any-return]

    def wants_stream(self, body: Any) -> bool:
        return False


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def with_key(clock: FakeClock | None = None, **more: Any) -> Authenticate:
    key = {"id": "team-a", "sha256": digest(KEY), **more}
    return policy_builder(Authenticate, {"method": "keys", "keys": [key]}, services=services_builder(clock))


def calling(headers: dict[str, str] | None = None, *, key: str | None = KEY, **more: Any) -> Exchange:
    sent = {"Authorization": f"Bearer {key}"} if key is not None else {}
    return exchange_builder(headers={**sent, **(headers or {})}, dialect=Asked(), **more)


# --- none -----------------------------------------------------------------------------------


async def test_none_lets_everyone_in_and_leaves_the_credential() -> None:
    exchange = calling(project="p")
    await called(policy_builder(Authenticate, {"method": "none"}).on_request(exchange))
    assert exchange.principal.id == "anonymous"
    assert exchange.project == "p"
    assert exchange.request.edits is None


# --- keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"X-Api-Key": KEY},
        {"api-key": KEY},
        {"Authorization": "Basic xyz", "x-api-key": KEY},
        {"Authorization": "Bearer ", "x-api-key": KEY},
    ],
)
async def test_a_key_is_found_wherever_sdks_put_it(headers: dict[str, str]) -> None:
    exchange = calling(headers, key=None)
    await called(with_key(principal="ann", project="red").on_request(exchange))
    assert (exchange.principal.id, exchange.principal.key_id, exchange.principal.method) == ("ann", "team-a", "keys")
    assert exchange.project == "red"


async def test_a_missing_key_is_refused(refusal: Refusal) -> None:
    error = await refusal(with_key().on_request, calling(key=None))
    assert (error.code, error.status) == ("invalid_api_key", 401)
    assert error.headers == ((b"www-authenticate", b"Bearer"),)


@pytest.mark.parametrize("key", ["sk-wrong-secret", digest(KEY), "\udcff\udc80", "é" * 100])
async def test_an_unknown_key_is_refused_and_not_shown(refusal: Refusal, key: str) -> None:
    error = await refusal(with_key().on_request, calling({"x-api-key": key}, key=None))
    assert error.code == "invalid_api_key"
    assert key not in error.message
    assert KEY not in str(error)


async def test_an_expired_key_says_so(refusal: Refusal) -> None:
    clock = FakeClock(now=1_700_000_000)
    policy = with_key(clock, expires="2023-11-15")
    await called(policy.on_request(calling()))
    clock.jump(86_400)
    error = await refusal(policy.on_request, calling())
    assert error.code == "invalid_api_key"
    assert "expired at 2023-11-15T00:00:00Z" in error.message


async def test_an_upper_case_digest_is_the_same_key() -> None:
    await called(
        policy_builder(
            Authenticate, {"method": "keys", "keys": [{"id": "a", "sha256": digest(KEY).upper()}]}
        ).on_request(calling())
    )


@pytest.mark.parametrize("claimed", ["red", "blue"])
async def test_a_call_may_name_the_projects_of_its_key(claimed: str) -> None:
    exchange = calling(project=claimed)
    await called(with_key(project="red", projects=["blue"]).on_request(exchange))
    assert exchange.project == claimed


@pytest.mark.parametrize("own", [{"project": "red", "projects": ["blue"]}, {}])
async def test_a_foreign_project_is_refused(refusal: Refusal, own: dict[str, Any]) -> None:
    error = await refusal(with_key(**own).on_request, calling(project="green"))
    assert (error.code, error.status, error.param) == ("policy_refused", 403, "x-sidecar-project")


async def test_tags_of_the_key_win_over_the_clients() -> None:
    exchange = calling(tags={"team": "mine", "job": "nightly"})
    await called(with_key(tags={"team": "theirs", "task": "medical"}).on_request(exchange))
    assert exchange.tags == {"team": "theirs", "job": "nightly", "task": "medical"}
    assert exchange.task == "medical"


@pytest.mark.parametrize(
    ("own", "claimed", "settled"),
    [
        ("high", "critical", "high"),
        ("high", "background", "background"),
        ("high", None, "high"),
        ("background", None, "background"),
        ("normal", "high", "normal"),
        ("critical", "critical", "critical"),
    ],
)
async def test_a_priority_is_at_most_the_keys(own: str, claimed: Any, settled: str) -> None:
    headers = {"x-sidecar-priority": claimed} if claimed else {}
    exchange = calling(headers, priority=claimed or "normal")
    await called(with_key(priority=own).on_request(exchange))
    assert exchange.priority == settled


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4o", "claude-3/sonnet", "x.y"])
async def test_models_are_allowed_by_glob(model: str) -> None:
    policy = with_key(models=["gpt-4o*", "claude*", "x.y"])
    await called(policy.on_request(calling(body={"model": model})))


@pytest.mark.parametrize("model", ["gpt-4", "xgpt-4o", "xzy", "claude" + "-" * 300, "GPT-4o"])
async def test_other_models_are_refused(refusal: Refusal, model: str) -> None:
    policy = with_key(models=["gpt-4o*", "claude*", "x.y"])
    error = await refusal(policy.on_request, calling(body={"model": model}))
    assert (error.code, error.status, error.param) == ("model_not_allowed", 403, "model")
    assert len(error.message) < 300


async def test_a_limited_key_may_not_send_what_names_no_model(refusal: Refusal) -> None:
    policy = with_key(models=["gpt-4o*"])
    error = await refusal(policy.on_request, calling(body=None, path="/v1/files"))
    assert error.code == "model_not_allowed"
    await called(policy.on_request(calling(body=None, path="/v1/files", method="GET")))
    await called(with_key(models=["*"]).on_request(calling(body=None, path="/v1/files")))


async def test_unnamed_models_can_be_allowed() -> None:
    key = {"id": "a", "sha256": digest(KEY), "models": ["gpt-4o"]}
    policy = policy_builder(Authenticate, {"method": "keys", "keys": [key], "unnamed_models": "allow"})
    await called(policy.on_request(calling(body=None, path="/v1/files")))


# --- passthrough ----------------------------------------------------------------------------


async def test_passthrough_names_the_caller_by_a_hash_and_keeps_the_credential() -> None:
    policy = policy_builder(Authenticate, {"method": "passthrough"})
    first, again, other = calling(), calling({"x-api-key": KEY}, key=None), calling(key="sk-other")
    for exchange in (first, again, other):
        await called(policy.on_request(exchange))
        assert exchange.request.edits is None
    assert first.principal.id == again.principal.id != other.principal.id
    assert KEY not in first.principal.id
    assert hashlib.sha256(KEY.encode()).hexdigest()[:16] not in first.principal.id


async def test_passthrough_lets_a_call_without_credential_go_up_as_it_is() -> None:
    exchange = calling(key=None)
    await called(policy_builder(Authenticate, {"method": "passthrough"}).on_request(exchange))
    assert exchange.principal.id == "anonymous"


async def test_a_configured_hash_key_gives_the_same_name_everywhere() -> None:
    names = []
    for hash_key in ("one", "one", "two"):
        exchange = calling()
        await called(policy_builder(Authenticate, {"method": "passthrough", "hash_key": hash_key}).on_request(exchange))
        names.append(exchange.principal.id)
    assert names[0] == names[1] != names[2]


# --- jwt ------------------------------------------------------------------------------------

RSA_ONE = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
RSA_TWO = RSAKey.generate_key(2048, {"kid": "two", "use": "sig"})
NOW = 1_700_000_000


def signed(key: Any = RSA_ONE, alg: str = "RS256", header: dict[str, Any] | None = None, **claims: Any) -> str:
    head = {"alg": alg, "kid": key.kid, **(header or {})}
    return jwt.encode(head, {"sub": "ann", "exp": NOW + 600, **claims}, key, algorithms=[alg])


def key_set(*keys: RSAKey) -> dict[str, Any]:
    return dict(KeySet(list(keys)).as_dict(private=False))


@pytest.fixture
def set_file(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(key_set(RSA_ONE)))
    return path


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now=NOW)


def with_tokens(clock: FakeClock, **options: Any) -> Authenticate:
    return policy_builder(Authenticate, {"method": "jwt", "jwt": options}, services=services_builder(clock))


async def test_a_token_names_the_caller_and_what_it_may(clock: FakeClock, set_file: Path) -> None:
    claims = {
        "principal": "email",
        "project": "https://example.com/project",
        "projects": "org.projects",
        "models": "models",
        "priority": "prio",
        "tags": {"team": "org.team"},
    }
    policy = with_tokens(clock, jwks_file=str(set_file), claims=claims)
    token = signed(
        **{
            "email": "ann@example.com",
            "https://example.com/project": "red",
            "org": {"projects": ["blue", 3], "team": "core"},
            "models": "gpt-4o* o3",
            "prio": "high",
        }
    )
    exchange = calling(key=token, project="blue")
    await called(policy.on_request(exchange))
    principal = exchange.principal
    assert (principal.id, principal.project, principal.projects) == ("ann@example.com", "red", ("blue",))
    assert (principal.models, principal.priority, principal.tags) == (("gpt-4o*", "o3"), "high", {"team": "core"})
    assert (exchange.project, exchange.tags, exchange.priority) == ("blue", {"team": "core"}, "high")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: signed(exp=NOW - 31), "expired"),
        (lambda: signed(exp=None), "exp"),
        (lambda: signed(exp=float(2**60) * 1e300), ""),
        (lambda: signed(nbf=NOW + 31), "not valid yet"),
        (lambda: signed(iss="https://evil"), "issuer"),
        (lambda: signed(iss="https://good", aud="other"), "audience"),
        (lambda: signed(iss="https://good", aud=None), "audience"),
        (lambda: signed(iss="https://good", aud="us", sub=""), "does not name a caller"),
        (lambda: signed(RSA_TWO), "does not publish"),
        (lambda: signed(RSA_ONE, alg="RS384"), "algorithm"),
        (lambda: signed(OctKey.import_key("x" * 40, {"kid": "one"}), alg="HS256"), "algorithm"),
        (lambda: signed()[:-8] + "AAAAAAAA", "signature"),
        (lambda: "a.b.c", "not"),
        (lambda: "sk-plain-key", "not a JSON Web Token"),
        (lambda: "ä.b.c", "not a JSON Web Token"),
        (lambda: "a." + "b" * 20_000 + ".c", "not a JSON Web Token"),
        (lambda: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.", "algorithm"),
    ],
)
async def test_wrong_tokens_are_refused_with_the_reason(
    clock: FakeClock, set_file: Path, refusal: Refusal, make: Callable[[], str], why: str
) -> None:
    policy = with_tokens(clock, jwks_file=str(set_file), issuer="https://good", audience=["us"])
    token = make()
    error = await refusal(policy.on_request, calling({"x-api-key": token}, key=None))
    assert (error.code, error.status) == ("invalid_api_key", 401)
    assert why in error.message
    assert token not in error.message


async def test_a_public_key_used_as_a_shared_secret_is_refused(
    clock: FakeClock, set_file: Path, refusal: Refusal
) -> None:
    policy = with_tokens(clock, jwks_file=str(set_file), algorithms=["RS256", "ES256"])
    pem = RSA_ONE.as_pem(private=False)
    import base64
    import hmac as hmac_module

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = part(b'{"alg":"HS256","kid":"one"}') + "." + part(json.dumps({"sub": "x", "exp": NOW + 9}).encode())
    token = text + "." + part(hmac_module.digest(pem, text.encode(), "sha256"))
    assert "algorithm" in (await refusal(policy.on_request, calling(key=token))).message


async def test_a_token_is_good_until_it_expires_and_no_longer(
    clock: FakeClock, set_file: Path, refusal: Refusal
) -> None:
    policy = with_tokens(clock, jwks_file=str(set_file))
    token = signed()
    await called(policy.on_request(calling(key=token)))
    clock.jump(600 + 29)
    await called(policy.on_request(calling(key=token)))
    clock.jump(2)
    assert "expired" in (await refusal(policy.on_request, calling(key=token))).message
    assert "expired" in (await refusal(policy.on_request, calling(key=token))).message


async def test_a_verified_token_is_not_verified_again(clock: FakeClock, set_file: Path) -> None:
    policy = with_tokens(clock, jwks_file=str(set_file))
    token = signed()
    first, second = calling(key=token), calling(key=token)
    await called(policy.on_request(first))
    started = time.perf_counter()
    await called(policy.on_request(second))
    assert time.perf_counter() - started < 0.002
    assert second.principal is first.principal


async def test_a_limiting_claim_that_is_missing_refuses(clock: FakeClock, set_file: Path, refusal: Refusal) -> None:
    policy = with_tokens(clock, jwks_file=str(set_file), claims={"models": "models"})
    assert "allows no model" in (await refusal(policy.on_request, calling(key=signed()))).message


async def test_a_shared_secret_signs_too(clock: FakeClock, refusal: Refusal) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    policy = with_tokens(clock, secret=secret, algorithms=["HS256"])
    exchange = calling(key=signed(OctKey.import_key(secret, {"kid": "whatever"}), alg="HS256"))
    await called(policy.on_request(exchange))
    assert exchange.principal.id == "ann"
    wrong = signed(OctKey.import_key("f" * 32, {"kid": "whatever"}), alg="HS256")
    assert "signature" in (await refusal(policy.on_request, calling(key=wrong))).message


async def test_unknown_headers_of_a_token_do_no_harm(clock: FakeClock, set_file: Path) -> None:
    policy = with_tokens(clock, jwks_file=str(set_file))
    from joserfc.jws import JWSRegistry

    token = jwt.encode(
        {"alg": "RS256", "kid": "one", "nonce": "abc"},
        {"sub": "ann", "exp": NOW + 600},
        RSA_ONE,
        registry=JWSRegistry(strict_check_header=False),
    )
    await called(policy.on_request(calling(key=token)))


async def test_the_key_set_is_fetched_once_for_all_who_wait(clock: FakeClock) -> None:
    async with FakeUpstream(default=reply(key_set(RSA_ONE), delay=0.02)) as issuer:
        policy = with_tokens(clock, jwks_url=issuer.url + "/jwks")
        await asyncio.gather(*(policy.on_request(calling(key=signed(sub=f"u{i}"))) for i in range(5)))
        assert len(issuer.calls) == 1
        await policy.stop()


async def test_it_is_fetched_at_start_before_any_call(clock: FakeClock) -> None:
    async with FakeUpstream(default=reply(key_set(RSA_ONE))) as issuer:
        policy = with_tokens(clock, jwks_url=issuer.url + "/jwks")
        await policy.start()
        await issuer.call(0)
        await called(policy.on_request(calling(key=signed())))
        assert len(issuer.calls) == 1
        await policy.stop()


async def test_a_new_key_is_looked_for_but_not_at_every_strangers_wish(clock: FakeClock, refusal: Refusal) -> None:
    async with FakeUpstream(
        reply(key_set(RSA_ONE)), reply(key_set(RSA_ONE)), default=reply(key_set(RSA_ONE, RSA_TWO))
    ) as issuer:
        policy = with_tokens(clock, jwks_url=issuer.url + "/jwks")
        await called(policy.on_request(calling(key=signed())))
        await refusal(policy.on_request, calling(key=signed(RSA_TWO)))
        assert len(issuer.calls) == 1, "the set was fetched a moment ago"
        clock.advance(10)
        await refusal(policy.on_request, calling(key=signed(RSA_TWO)))
        await refusal(policy.on_request, calling(key=signed(RSA_TWO, sub="b")))
        assert len(issuer.calls) == 2
        clock.advance(10)
        await called(policy.on_request(calling(key=signed(RSA_TWO))))
        assert len(issuer.calls) == 3


async def test_an_issuer_that_is_down_is_asked_with_a_back_off(
    clock: FakeClock, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeUpstream(
        reply(status=503), reply(body=b"<html>"), reply({"keys": []}), default=reply(key_set(RSA_ONE))
    ) as issuer:
        policy = with_tokens(clock, jwks_url=issuer.url + "/jwks")
        for number, wait in enumerate((1, 2, 4), start=1):
            with caplog.at_level(logging.ERROR, "llm_sidecar.authenticate"):
                error = await refusal(policy.on_request, calling(key=signed()))
            assert (error.code, error.status) == ("overloaded", 503)
            await refusal(policy.on_request, calling(key=signed()))
            assert len(issuer.calls) == number
            clock.advance(wait)
        await called(policy.on_request(calling(key=signed())))
    assert len(caplog.records) == 3


async def test_old_keys_stay_good_while_the_issuer_is_down(clock: FakeClock) -> None:
    async with FakeUpstream(reply(key_set(RSA_ONE)), default=reply(status=500)) as issuer:
        policy = with_tokens(clock, jwks_url=issuer.url + "/jwks", refresh="1m")
        await called(policy.on_request(calling(key=signed())))
        clock.advance(61)
        await called(policy.on_request(calling(key=signed(sub="bob"))))
        await issuer.call(1)
        await called(policy.on_request(calling(key=signed(sub="eve"))))
        await policy.stop()


async def test_a_caller_that_leaves_does_not_end_the_fetch(clock: FakeClock) -> None:
    async with FakeUpstream(reply(key_set(RSA_ONE), delay=0.05)) as issuer:
        policy = with_tokens(clock, jwks_url=issuer.url + "/jwks")
        leaving = asyncio.create_task(policy.on_request(calling(key=signed())))
        await issuer.call(0)
        leaving.cancel()
        await called(policy.on_request(calling(key=signed())))
        assert len(issuer.calls) == 1


async def test_a_fetch_under_way_ends_with_the_policy(clock: FakeClock) -> None:
    async with FakeUpstream(hang()) as issuer:
        policy = with_tokens(clock, jwks_url=issuer.url + "/jwks")
        await policy.start()
        call = await issuer.call(0)
        await policy.stop()
        await asyncio.wait_for(call.disconnected, 1)


async def test_a_rehearsal_fetches_nothing(clock: FakeClock) -> None:
    async with FakeUpstream() as issuer:
        services = services_builder(clock, dry=True)
        options = {"method": "jwt", "jwt": {"jwks_url": issuer.url + "/jwks"}}
        exchange = calling(key=signed())
        await called(policy_builder(Authenticate, options, services=services).on_request(exchange))
        assert issuer.connections == 0
    assert exchange.principal.id == "anonymous"
    assert "not verified" in exchange.notes[0][1]


async def test_a_shared_secret_in_a_published_set_is_not_used(
    clock: FakeClock, tmp_path: Path, refusal: Refusal
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]}))
    error = await refusal(with_tokens(clock, jwks_file=str(path)).on_request, calling(key=signed()))
    assert error.code == "overloaded"


# --- options --------------------------------------------------------------------------------


def wrong_options() -> Iterator[tuple[dict[str, Any], str]]:
    good = {"id": "a", "sha256": digest("x")}
    yield {}, "method"
    yield {"method": "keys"}, "at least one"
    yield {"method": "none", "keys": [good]}, "method keys only"
    yield {"method": "keys", "keys": [good, {"id": "a", "sha256": digest("y")}]}, "same id"
    yield {"method": "keys", "keys": [good, {**good, "id": "b"}]}, "same sha256"
    yield {"method": "keys", "keys": [{"id": "a", "sha256": "sk-in-clear"}]}, "sha256"
    yield {"method": "keys", "keys": [{**good, "expires": "soon"}]}, "2027-01-31"
    yield {"method": "jwt"}, "section jwt"
    yield {"method": "jwt", "jwt": {}}, "exactly one"
    yield {"method": "jwt", "jwt": {"jwks_file": "x", "algorithms": ["none"]}}, "algorithms"
    yield {"method": "jwt", "jwt": {"jwks_file": "x", "algorithms": ["RS256", "HS256"]}}, "need secret"
    yield {"method": "jwt", "jwt": {"secret": "x" * 40}}, "HS256"
    yield {"method": "jwt", "jwt": {"secret": "short", "algorithms": ["HS256"]}}, "32 bytes"


@pytest.mark.parametrize(("options", "said"), list(wrong_options()))
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        AuthenticateOptions.model_validate(options)
    assert said in str(caught.value)
    assert "sk-in-clear" not in str(caught.value)


def test_a_principal_has_stable_words_for_its_expiry() -> None:
    options = AuthenticateOptions.model_validate_json(
        json.dumps({"method": "keys", "keys": [{"id": "a", "sha256": digest("x"), "expires": "2027-01-31T18:00:00Z"}]}),
        strict=True,
    )
    assert options.keys[0].expires == 1_801_418_400.0
