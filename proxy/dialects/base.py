"""What a dialect is: where one wire API keeps what policies read and edit.

A dialect is a stateless singleton. It never raises on what a client or provider sent: a place
of the wrong type is not a place it knows, and what stands there is reported as generic text,
so that nothing goes out uninspected. Policies are written against these words, never against
one provider's JSON.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from proxy.place import place

if TYPE_CHECKING:
    from proxy.accounting.usage import Usage
    from proxy.errors import ProxyError
    from proxy.stream.sse import Event

Json = Any
Kind = Literal["text", "arguments", "leaf"]
"""``text``: prose. ``arguments``: a string that holds JSON (tool arguments), to be treated leaf by leaf
inside its JSON when it parses, else as text. ``leaf``: a string leaf of a JSON structure (a tool's input
object, an unknown field): its path gives context."""

Channel = Hashable
"""Names one growing text of a streamed answer. A tuple that leads from the whole to the part: (choice, "content"),
(choice, "arguments", call). Only the dialect that made one knows more about it."""


@dataclass(slots=True)
class Slot:
    """One editable string inside a parsed body: ``holder[key]``.

    role: who says it (system, user, assistant, tool, input, instructions, ...).
    path: dotted place in the body for messages, as ``messages[2].content[0].text``, made on demand.
    """

    holder: Any
    key: Any
    kind: Kind
    role: str
    path: tuple[str | int, ...]

    @property
    def text(self) -> str:
        """The string that stands here."""
        value: str = self.holder[self.key]
        return value

    @text.setter
    def text(self, value: str) -> None:
        self.holder[self.key] = value

    @property
    def place(self) -> str:
        """The path as a caller reads it: ``messages[2].content``, without keys that may be values."""
        return place(self.path)


@dataclass(slots=True)
class Piece(Slot):
    """A Slot inside a stream event: what the event adds to one channel.

    whole: the piece repeats the channel's complete text (the responses API's ``done`` events)
    instead of adding to it.
    """

    channel: Channel = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Opaque:
    """Content that cannot be read as text: an image, audio, a file, a token array."""

    kind: str
    path: tuple[str | int, ...]


@dataclass(slots=True)
class Reading:
    """What one stream event means; made once per event and shared by all who read it.

    pieces: texts it adds. closes: what gets nothing more after this event (a tail held back for
    it must leave before or within this event); None closes all. An entry is a channel or the
    beginning of channels: ``(0,)`` closes every channel of choice 0. Ask ``closed(channel)``.
    commits: it carries content, a tool call or a finish. finish: the provider's finish reason.
    usage: token counts it carries. final: the answer is complete with this event (``[DONE]``,
    ``message_stop``, ``response.completed``): the piece that waits for the ledger.
    error: it is an error event. usage_only: it exists only to carry usage (``choices: []``) and may be hidden.
    service: the class of service that it says the answer has; empty where it says nothing.
    """

    pieces: Sequence[Piece] = ()
    closes: Sequence[Channel] | None = ()
    commits: bool = False
    finish: str | None = None
    usage: Usage | None = None
    final: bool = False
    error: bool = False
    usage_only: bool = False
    model: str | None = None
    service: str = ""

    def closed(self, channel: Channel) -> bool:
        """Whether ``channel`` gets nothing more after this event."""
        closes = self.closes
        if not closes:
            return closes is None
        if not isinstance(channel, tuple):
            return channel in closes
        return any(channel[: len(entry)] == entry for entry in closes if isinstance(entry, tuple))


NOTHING = Reading()


class Plain(Reading):
    """A Reading of one more text and nothing else, as nearly all are: three stores instead of nine."""

    __slots__ = ()
    closes = ()
    finish = None
    usage = None
    final = False
    error = False
    usage_only = False
    service = ""

    def __init__(self, pieces: tuple[Piece], commits: bool, model: str | None) -> None:
        self.pieces = pieces
        self.commits = commits
        self.model = model


@dataclass(slots=True)
class Bound:
    """What bounds an answer. tokens: per choice, None when the client set none. choices: ``n``, and whatever else
    multiplies answers. pictures: how many it may hold, speech: milliseconds that were uploaded: they cost something
    where the model has a price for a picture or a minute.
    """

    tokens: int | None = None
    choices: int = 1
    pictures: int = 0
    speech: int = 0


@dataclass(slots=True)
class Finish:
    """How a whole answer ended. complete: it has the finish its dialect demands; reasons: one per choice.

    cut: it says itself that it has none (``finish_reason: null``). An answer that leaves the field out may be of a
    provider that never sends it, and is not cut.
    """

    complete: bool
    reasons: list[str] = field(default_factory=list)
    cut: bool = False


class Reader:
    """Reads the events of one stream. model: what the events say that were skimmed."""

    __slots__ = ("_dialect", "model")

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.model: str | None = None

    def read(self, event: Event) -> Reading:
        """What the event means; never raises."""
        return self._dialect.read(event)

    def skim(self, data: bytes) -> tuple[int, int]:
        """For bytes of which nobody wants to know more than how long the texts in them are: how many events they are,
        all of them whole, and how many characters they add. (0, 0): something in them has to be read.
        """
        return 0, 0


class Ending:
    """Ends one stream early but properly, as ``finish_reason: length`` does; see ``proxy.dialects.endings``."""

    def see(self, event: Event) -> None:
        """An event that passes; each of the stream's is shown."""

    def events(self, like: Event | None, reason: str, output: int) -> list[Event]:
        """What is left to be said. like: the event that passed last, which nobody has edited yet. output: the tokens
        put out so far."""
        return []


class Dialect:
    """One wire API. Subclasses override what their API has; the defaults suit an API without it."""

    name: str = "generic"
    """``openai_chat``, ``openai_completions``, ``openai_embeddings``, ``openai_responses``,
    ``anthropic_messages``, ``generic``."""
    operation: str = "other"
    """The OpenTelemetry GenAI operation: chat, text_completion, embeddings, other."""
    streams_end_with_done: bool = False
    """Whether a whole stream has a ``[DONE]`` event or another final event of its own."""
    needs_final: bool = False
    """Whether there are clients that take a stream without that event for broken."""

    echoes: frozenset[str] = frozenset()
    """Fields of a request that say who asks or how, and that its answer repeats."""

    prompted: frozenset[str] = frozenset()
    """Fields of a request that providers turn into a prompt, but which are no texts of a conversation."""

    # --- request -----------------------------------------------------------------------
    def model(self, body: Json) -> str | None:
        """The model asked for, None when absent or no string."""
        raise NotImplementedError

    def set_model(self, body: Json, model: str) -> None:
        """Ask for another model."""
        raise NotImplementedError

    def wants_stream(self, body: Json) -> bool:
        """Whether the answer is asked for as events."""
        raise NotImplementedError

    def bound(self, body: Json) -> Bound:
        """What bounds the output."""
        raise NotImplementedError

    def texts(self, body: Json) -> Iterator[Slot]:
        """Every text of the request, in order of appearance, unknown text-bearing places included."""
        raise NotImplementedError

    def plain_texts(self, body: Json) -> list[str] | None:
        """The same as strings, at once, where the request holds nothing but prose: no tools, no schema, no media. Else
        None."""
        return None

    def prose(self, body: Json) -> list[str] | None:
        """The texts of ``texts`` as strings, where each is the content of a plain message and nothing is opaque; else
        None. For who only wants to know whether there is anything to do."""
        return None

    def described(self, body: Json) -> Iterator[Slot]:
        """Texts that are masked only when asked: tool descriptions, ``user``, ``metadata`` values."""
        raise NotImplementedError

    def opaque(self, body: Json) -> Iterator[Opaque]:
        """Content of the request that cannot be read."""
        raise NotImplementedError

    def stateful(self, body: Json) -> bool:
        """Whether the call refers to or leaves state on the provider's side (previous_response_id, store, ...)."""
        raise NotImplementedError

    def add_system(self, body: Json, text: str) -> None:
        """Put a system prompt before what the client said."""
        raise NotImplementedError

    def asks_usage(self, body: Json) -> bool:
        """Whether a streamed answer will carry usage as the request stands."""
        raise NotImplementedError

    def ask_usage(self, body: Json) -> None:
        """Make a streamed answer carry usage."""
        raise NotImplementedError

    # --- whole answer ------------------------------------------------------------------
    def answer_texts(self, body: Json) -> Iterator[Slot]:
        """Every text of a whole answer: content, reasoning (unless signed), refusals, tool arguments."""
        raise NotImplementedError

    def usage(self, body: Json) -> Usage | None:
        """Token counts of a whole answer, None when it carries none."""
        raise NotImplementedError

    def finish(self, body: Json) -> Finish:
        """How a whole answer ended."""
        raise NotImplementedError

    def answer_model(self, body: Json) -> str | None:
        """The model that answered."""
        raise NotImplementedError

    # --- streamed answer ---------------------------------------------------------------
    def read(self, event: Event) -> Reading:
        """What one event means. Never raises; an event that is not understood is ``NOTHING``."""
        raise NotImplementedError

    def reader(self) -> Reader:
        """The reader of one stream's events, which may learn from what came before."""
        return Reader(self)

    def join_usage(self, before: Usage | None, now: Usage) -> Usage:
        """The counts of a stream after one more event told its own: running totals, of which the greater stands."""
        return now

    def delta(self, like: Event, channel: Channel, text: str) -> Event:
        """A new event in this dialect that adds ``text`` to ``channel``; ids and model as in ``like``."""
        raise NotImplementedError

    def ending(self) -> Ending:
        """For who may end one stream early."""
        return Ending()

    def collect(self, events: Sequence[Event]) -> Json | None:
        """The whole answer a complete stream amounts to; None when it is incomplete or holds an error."""
        raise NotImplementedError

    def replay(self, body: Json, *, include_usage: bool) -> list[Event]:
        """A whole answer as the events a stream of it would have had, final event included."""
        raise NotImplementedError

    # --- errors ------------------------------------------------------------------------
    def error(self, error: ProxyError) -> bytes:
        """The body of an error answer in this dialect's shape (JSON)."""
        raise NotImplementedError

    def error_event(self, error: ProxyError, after: bytes = b"") -> Event | None:
        """The event that ends a committed stream loudly; None where the dialect has none. after: the bytes that left
        last, where known, for events that are numbered."""
        raise NotImplementedError

    def upstream_error(self, body: Json) -> str | None:
        """The code or type of a provider's own error body (``context_length_exceeded``,
        ``insufficient_quota``, ``content_filter`` ...), None when it has none."""
        raise NotImplementedError
