"""What multipart calls cost: the model stands in a field of the form, before or after its files, and nothing is held."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from proxy.accounting import record
from proxy.accounting.segments import read_lines
from proxy.accounting.usage import PACKED
from proxy.testing import FakeUpstream, hang, reply

PRICES = {"prices": {"listener": {"minute": 0.006}, "painter": {"image": 0.04}, "reader": {"input": 1, "output": 2}}}
SOUND = b"RIFF" * 12_000
SPOKEN = {"text": "Hi", "usage": {"type": "duration", "seconds": 90}}
TRANSCRIPTIONS, EDITS = "/v1/audio/transcriptions", "/v1/images/edits"


class World:
    """A proxy before an upstream, a client, and the rows that are written."""

    def __init__(self, proxy, client):
        self.proxy = proxy
        self.client = client

    async def post(self, path, *fields, **more):
        """fields: (name, value) in this order; bytes are a file."""
        form = aiohttp.FormData()
        for name, value, *kind in fields:
            if isinstance(value, bytes):
                form.add_field(name, value, filename="file", content_type=kind[0])
            else:
                form.add_field(name, value)
        async with self.client.post(self.proxy.url + path, data=form, **more) as answer:
            await answer.read()
            return answer.status, answer.headers.get("x-sidecar-cost-usd")

    def ends(self):
        directory = self.proxy.app.snapshot.services.get("accounting").store.journal.directory
        lines = [
            line for number in directory.segments() for line in read_lines(directory.file(number).read_bytes(), "test")
        ]
        return [line for line in lines if line[0] == "e"]

    def spent(self):
        policy = self.proxy.app.snapshot.chains["main"].find("budget")
        [(_, counter)] = policy.budget.bucket("all", policy.services.clock.now()).counters
        return policy.state.usage(counter)


@pytest.fixture
async def world(sidecar, setting):
    async with aiohttp.ClientSession() as client:

        async def start(upstream, *chain):
            return World(await sidecar(setting(upstream.url + "/v1", *chain, **PRICES)), client)

        yield start


SOUND_FIRST = (("file", SOUND, "audio/wav"), ("model", "listener"))
MODEL_FIRST = (("model", "listener"), ("file", SOUND, "audio/wav"))


@pytest.mark.parametrize("fields", [MODEL_FIRST, SOUND_FIRST], ids=["model first", "sound first"])
async def test_speech_is_paid_by_the_minute_in_ledger_header_and_budget(world, fields):
    async with FakeUpstream(reply(SPOKEN)) as upstream:
        here = await world(upstream, "account", {"budget": {"usd": 1}})
        assert await here.post(TRANSCRIPTIONS, *fields) == (200, "0.009")
        [end] = here.ends()
        assert (end[11], end[7]) == (9_000_000, 0)
        assert end[4].split("\t")[5:7] == ["listener", "listener"]
        assert (here.spent().used, here.spent().held) == (9_000_000, 0)


async def test_speech_whose_client_leaves_is_paid_by_estimate(world):
    async with FakeUpstream(hang()) as upstream:
        here = await world(upstream, "account", {"budget": {"usd": 1}})
        with pytest.raises(TimeoutError):
            await here.post(TRANSCRIPTIONS, *MODEL_FIRST, timeout=aiohttp.ClientTimeout(total=0.3))
        async with asyncio.timeout(5):
            while not here.ends():
                await asyncio.sleep(0.01)
        # a second of this type has 48,000 bytes: it is paid for, since the provider has it
        [end] = here.ends()
        assert dict(zip(PACKED, end[14], strict=False))["audio_ms"] == 1_000
        assert end[7] == record.ESTIMATED
        assert (here.spent().used, here.spent().held) == (100_000, 0)


async def test_a_spent_budget_refuses_what_it_would_cost(world):
    async with FakeUpstream(default=reply(SPOKEN)) as upstream:
        here = await world(upstream, "account", {"budget": {"usd": 0.01}})
        assert (await here.post(TRANSCRIPTIONS, *MODEL_FIRST))[0] == 200
        long = ("file", SOUND * 20, "audio/wav")
        assert (await here.post(TRANSCRIPTIONS, ("model", "listener"), long))[0] == 429
        assert len(upstream.calls) == 1


async def test_pictures_of_an_edit_are_reserved_and_paid(world):
    fields = (("model", "painter"), ("n", "3"), ("prompt", "A cat"), ("image", b"PNG" * 500, "image/png"))
    async with FakeUpstream(default=reply({"data": [{"b64_json": "aa"}] * 2})) as upstream:
        here = await world(upstream, "account", {"budget": {"usd": 0.15}})
        assert await here.post(EDITS, *fields) == (200, "0.08")  # three were asked for, two were made
        assert here.spent().used == 80_000_000
        assert (await here.post(EDITS, *fields))[0] == 429  # three more may come to 0.12


async def test_a_transcript_that_says_nothing_of_its_use_is_estimated_by_what_was_sent(world):
    async with FakeUpstream(reply(body=b"Hello there", content_type="text/plain")) as upstream:
        here = await world(upstream, "account")
        assert await here.post(TRANSCRIPTIONS, *MODEL_FIRST, ("response_format", "text")) == (200, "0.0001")
        [end] = here.ends()
        assert end[7] == record.ESTIMATED


async def test_a_model_without_a_price_is_flagged(world):
    async with FakeUpstream(reply(SPOKEN)) as upstream:
        here = await world(upstream, "account", {"budget": {"usd": 1}})
        assert await here.post(TRANSCRIPTIONS, ("file", SOUND, "audio/wav"), ("model", "unknown")) == (200, None)
        assert here.ends()[0][7] == record.UNPRICED


async def test_a_file_that_no_model_has_seen_costs_nothing(world):
    async with FakeUpstream(reply({"id": "file-1", "object": "file"})) as upstream:
        here = await world(upstream, "account", {"budget": {"tokens": 5_000}})
        fields = (("purpose", "batch"), ("file", b'{"model": "m"}\n' * 500, "application/jsonl"))
        assert (await here.post("/v1/files", *fields))[0] == 200
        [end] = here.ends()
        assert (end[7], end[11], end[14]) == (0, 0, [])
        assert here.spent().used == 0


async def test_a_client_that_waits_to_be_told_is_refused_without_its_body(world):
    refuse = {"authenticate": {"method": "keys", "keys": [{"id": "k", "sha256": "0" * 64, "principal": "p"}]}}
    async with FakeUpstream() as upstream:
        here = await world(upstream, "account", refuse)
        assert (await here.post(TRANSCRIPTIONS, *MODEL_FIRST, expect100=True))[0] == 401
        assert not upstream.calls
