"""A realtime session, small: texts in, the same quotes out that the other APIs give; audio is measured, not heard."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

import orjson
from aiohttp import WSMsgType, web

from proxy.demo.words import Heard, Json, count, part_texts, tokens_of

_LARGEST: Final = 16 * 1024 * 1024


async def converse(request: web.BaseRequest) -> web.WebSocketResponse:
    """One session from its handshake to its end. Raises HTTPBadRequest for what is no handshake."""
    socket = web.WebSocketResponse(protocols=("realtime",), max_msg_size=_LARGEST)
    await socket.prepare(request)
    session = Session(request.query.get("model", "demo"))
    await socket.send_str(session.say("session.created", session=session.shown()))
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            for event in session.hear(message.data):
                await socket.send_str(event)
    return socket


class Session:
    """What a session remembers. Pure: an event in, events out."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.instructions = ""
        self.user = ""
        self._audio = 0
        self._numbers = itertools.count(1)

    def shown(self) -> Json:
        """The session as its own events show it."""
        return {"type": "realtime", "object": "realtime.session", "id": "sess_demo", "model": self.model,
                "instructions": self.instructions}  # fmt: skip

    def say(self, kind: str, **more: Any) -> str:
        """An event of the server."""
        return orjson.dumps({"type": kind, "event_id": f"event_{next(self._numbers)}", **more}).decode()

    def hear(self, text: str) -> Iterator[str]:
        """What is said to an event of the client."""
        try:
            event = orjson.loads(text)
            kind = event["type"]
        except (orjson.JSONDecodeError, TypeError, KeyError):
            yield self._wrong("This is no JSON object with a type.")
            return
        match kind:
            case "session.update":
                said = event.get("session") or {}
                self.instructions = str(said.get("instructions") or self.instructions)
                yield self.say("session.updated", session=self.shown())
            case "conversation.item.create":
                item = event.get("item") or {}
                self.user = part_texts(item.get("content")) or self.user
                yield self.say("conversation.item.created", item={"id": "item_demo", **item})
            case "input_audio_buffer.append":
                self._audio += len(str(event.get("audio") or "")) * 3 // 4
            case "input_audio_buffer.commit":
                self.user, self._audio = f"[{self._audio} bytes of audio]", 0
                yield self.say("input_audio_buffer.committed", item_id="item_demo")
            case "response.create":
                yield from self._respond()
            case _:
                yield self._wrong(f"The demo upstream does not know {str(kind)[:100]!r}.")

    def _respond(self) -> Iterator[str]:
        words = Heard(self.user, self.instructions).quote()
        place = {"response_id": "resp_demo", "item_id": "item_demo_answer", "output_index": 0, "content_index": 0}
        yield self.say("response.created", response=self._response("in_progress"))
        for piece in tokens_of(words):
            yield self.say("response.output_text.delta", **place, delta=piece)
        yield self.say("response.output_text.done", **place, text=words)
        read, made = count(self.user + self.instructions), count(words)
        usage = {"total_tokens": read + made, "input_tokens": read, "output_tokens": made}
        yield self.say("response.done", response={**self._response("completed"), "usage": usage})

    def _response(self, status: str) -> dict[str, Json]:
        return {"id": "resp_demo", "object": "realtime.response", "status": status, "output": []}

    def _wrong(self, message: str) -> str:
        return self.say("error", error={"type": "invalid_request_error", "code": "invalid_value", "message": message})
