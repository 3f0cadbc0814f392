"""What one exchange used, in the provider's own counts or in our estimate.

The totals follow one convention whatever the provider says:

* ``input`` is every input token: fresh, read from cache, written to cache, audio, image;
  ``cached_input``, ``cache_write``, ``audio_input`` and ``image_input`` are parts of it,
  and ``cache_write_1h`` (kept for an hour: dearer) is a part of ``cache_write``.
* ``output`` is every output token; ``reasoning``, ``audio_output`` and ``image_output`` are parts of it.
* ``images`` counts whole pictures made, ``searches`` the provider's own web searches, ``audio_ms`` milliseconds of
  speech: what some models are paid by instead of tokens.

OpenAI counts like this already. A dialect that counts apart (Anthropic's ``input_tokens`` leaves cache reads and
cache writes out) adds the parts to the total before it builds a ``Usage``.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "MOST_TOKENS",
    "PACKED",
    "TOKENS_PER_IMAGE",
    "Usage",
    "answers",
    "estimate_speech",
    "estimate_tokens",
    "estimate_tokens_from_size",
    "estimate_upload",
]

TOKENS_PER_IMAGE = 1_000
"""A round figure for one image in a prompt: the providers' own rules give 85 to 1,600 by size and detail."""

MOST_TOKENS = 1_000_000_000
"""No call has more of one kind: a greater count is a mistake of the provider's or an attack on the ledger's sums."""

PACKED = (
    "input",
    "output",
    "cached_input",
    "cache_write",
    "reasoning",
    "images",
    "cache_write_1h",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
    "audio_ms",
    "searches",
)
"""The order of the counts on disk; new ones are added at the end."""

_SAMPLE = 512


class Usage:
    """Token and image counts; parts are contained in their totals (see the module's text)."""

    __slots__ = (
        "audio_input",
        "audio_ms",
        "audio_output",
        "cache_write",
        "cache_write_1h",
        "cached_input",
        "estimated",
        "image_input",
        "image_output",
        "images",
        "input",
        "output",
        "reasoning",
        "searches",
        "service",
    )

    def __init__(
        self,
        *,
        input: int = 0,  # noqa: A002 - the word users, reports and price lists know
        cached_input: int = 0,
        cache_write: int = 0,
        cache_write_1h: int = 0,
        audio_input: int = 0,
        image_input: int = 0,
        output: int = 0,
        reasoning: int = 0,
        audio_output: int = 0,
        image_output: int = 0,
        images: int = 0,
        audio_ms: int = 0,
        searches: int = 0,
        estimated: bool = False,
        service: str = "",
    ) -> None:
        """``service``: the class of service that the answer says it had (``standard``, ``flex``, ``priority``,
        ``batch`` ...), which decides its price; empty where it says nothing.
        """
        self.input = input
        self.cached_input = cached_input
        self.cache_write = cache_write
        self.cache_write_1h = cache_write_1h
        self.audio_input = audio_input
        self.image_input = image_input
        self.output = output
        self.reasoning = reasoning
        self.audio_output = audio_output
        self.image_output = image_output
        self.images = images
        self.audio_ms = audio_ms
        self.searches = searches
        self.estimated = estimated
        self.service = service

    @property
    def total(self) -> int:
        """Input and output tokens together."""
        return self.input + self.output

    def __add__(self, other: Usage) -> Usage:
        """The sum of two usages; estimated as soon as one of them is."""
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(
            input=self.input + other.input,
            cached_input=self.cached_input + other.cached_input,
            cache_write=self.cache_write + other.cache_write,
            cache_write_1h=self.cache_write_1h + other.cache_write_1h,
            audio_input=self.audio_input + other.audio_input,
            image_input=self.image_input + other.image_input,
            output=self.output + other.output,
            reasoning=self.reasoning + other.reasoning,
            audio_output=self.audio_output + other.audio_output,
            image_output=self.image_output + other.image_output,
            images=self.images + other.images,
            audio_ms=self.audio_ms + other.audio_ms,
            searches=self.searches + other.searches,
            estimated=self.estimated or other.estimated,
            service=other.service or self.service,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Usage):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in Usage.__slots__)

    __hash__ = None  # type: ignore[assignment] # counts change while a stream runs

    def __bool__(self) -> bool:
        """Whether anything was used."""
        return bool(self.input or self.output or self.images or self.audio_ms or self.searches)

    def pack(self) -> tuple[int, ...]:
        """The counts in the order of ``PACKED``, without the zeros at the end (journal and ledger)."""
        if not (
            self.cached_input
            or self.reasoning
            or self.cache_write
            or self.images
            or self.audio_input
            or self.audio_output
            or self.image_input
            or self.image_output
            or self.audio_ms
            or self.searches
        ):
            return (self.input, self.output)
        counts = [getattr(self, name) for name in PACKED]
        while counts and not counts[-1]:
            counts.pop()
        return tuple(counts)

    @classmethod
    def unpack(cls, counts: Sequence[int], *, estimated: bool = False) -> Usage:
        """The usage that ``pack`` gave ``counts`` for."""
        usage = cls(estimated=estimated)
        for name, count in zip(PACKED, counts, strict=False):
            setattr(usage, name, count)
        return usage

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)}" for name in Usage.__slots__ if getattr(self, name))
        return f"Usage({shown})"


def answers(status: int | None) -> bool:
    """Whether an upstream's status carries an answer, which costs something also where its provider says nothing of it.
    None, no head has come: it may.

    >>> answers(200), answers(101), answers(204), answers(302), answers(500)
    (True, True, False, False, False)
    """
    return status is None or (status < 300 and status != 204)


def estimate_tokens(text: str | bytes) -> int:
    """Roughly how many tokens a text has, never below the number of four-byte groups.

    Four UTF-8 bytes a token fits English prose and code on today's vocabularies (within some 20 %). Texts in other
    scripts carry more bytes a letter and fewer letters a token: for Cyrillic, Greek, Arabic and the like (two bytes a
    letter) the same four bytes are two letters, which is about right; CJK and most of South and South-East Asia (three
    bytes a letter) come to one token a letter, so three bytes a token; emoji (four bytes) to two tokens each, so two
    bytes a token. The mix is measured on a sample of 512 letters from the start, the middle and the end, so that
    the cost of a long text is one ``encode``.
    """
    if isinstance(text, bytes):
        return estimate_tokens_from_size(len(text))
    letters = len(text)
    if not letters:
        return 0
    if text.isascii():
        return (letters + 3) // 4
    if letters <= 3 * _SAMPLE:
        sample = text
    else:
        middle = letters // 2
        sample = text[:_SAMPLE] + text[middle : middle + _SAMPLE] + text[-_SAMPLE:]
    # Bytes above one a letter tell the script without looking at single letters: the UTF-16 length counts letters
    # outside the basic plane twice, the UTF-8 length gives the mean width.
    size = len(sample.encode("utf-8", "surrogatepass"))
    astral = len(sample.encode("utf-16-le", "surrogatepass")) // 2 - len(sample)
    ascii_letters = len(sample.encode("ascii", "ignore"))
    other = len(sample) - ascii_letters - astral
    other_bytes = size - ascii_letters - 4 * astral
    wide = max(0, other_bytes - 2 * other)  # letters of three bytes
    narrow = other - wide
    # in twelfths of a token: ASCII 1/4, two-byte letters 1/2, three-byte letters 1, astral 2
    twelfths = 3 * ascii_letters + 6 * narrow + 12 * wide + 24 * astral
    return max(1, -(-twelfths * letters // (12 * len(sample))))


def estimate_tokens_from_size(size: int) -> int:
    """Tokens of ``size`` bytes when the text itself is not at hand: four bytes a token, rounded up."""
    return (size + 3) // 4


_SPEECH = {"wav": 48_000, "x-wav": 48_000, "pcm": 48_000, "l16": 48_000, "flac": 24_000, "mpeg": 16_000, "mp3": 16_000}
_SPEECH_ELSE = 8_000
_TOKENS_A_SECOND = 20


def estimate_speech(asked: int, kind: str, size: int) -> Usage:
    """Usage of spoken words of which nobody says how long they are: by the bytes a second that are usual for their
    type, and the twenty tokens a second that models of speech are paid for.

    >>> estimate_speech(10, "audio/mpeg", 160_000)
    Usage(audio_ms=10000, audio_output=200, estimated=True, input=10, output=200)
    """
    milliseconds, tokens = _speech(kind, size)
    return Usage(input=asked, output=tokens, audio_output=tokens, audio_ms=milliseconds, estimated=True)


def estimate_upload(pictures: int, kind: str, size: int) -> Usage:
    """Usage of files that a model is given: so many pictures, and ``size`` bytes of spoken words of this type.

    >>> estimate_upload(0, "audio/wav", 480_000)
    Usage(audio_input=200, audio_ms=10000, estimated=True, input=200)
    """
    milliseconds, tokens = _speech(kind, size)
    seen = pictures * TOKENS_PER_IMAGE
    return Usage(input=tokens + seen, audio_input=tokens, image_input=seen, audio_ms=milliseconds, estimated=True)


def _speech(kind: str, size: int) -> tuple[int, int]:
    """Milliseconds and tokens of so many bytes of this type."""
    form = kind.partition("/")[2].partition(";")[0].strip().lower()
    milliseconds = size * 1_000 // _SPEECH.get(form, _SPEECH_ELSE)
    return milliseconds, milliseconds * _TOKENS_A_SECOND // 1_000
