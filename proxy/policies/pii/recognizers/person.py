"""PERSON by context: titles, introductions, labelled fields, salutations, signatures, speakers in a chat."""

from __future__ import annotations

import re

from proxy.policies.pii.found import CONTEXT
from proxy.policies.pii.recognizers.base import Recognizer, both_cases
from proxy.policies.pii.scan import Scan

_UPPER = rb"(?:[A-Z]|\xc3[\x80-\x9e]|[\xc4-\xc5][\x80-\xbf]|\xce[\x86-\xab]|\xd0[\x80-\xaf])"
_LETTER = rb"(?:[A-Za-z]|\xc3[\x80-\xbf]|[\xc4-\xca][\x80-\xbf]|\xcc[\x80-\xbf]|[\xce-\xd3][\x80-\xbf])"
_WORD = _UPPER + rb"(?:" + _LETTER + rb"|(?:['-]|\xe2\x80\x99)" + _UPPER + rb"){1,24}"
_LINK = rb"(?:de la|de|da|do|dos|di|del|van der|van den|van|von|al|bin|el|le|la|y)"
_NAME = re.compile(
    rb"(?:(?:Dr|Prof|Mr|Mrs|Ms|Miss)\.? )?(?:" + _WORD + rb"|[A-Z]\.)"
    rb"(?:[ \t](?:" + _LINK + rb"[ \t])?(?:" + _WORD + rb"|[A-Z]\.?(?![A-Za-z]))){0,3}"
)
_NOT = frozenset(
    b"The This That These Those There Here What When Where Which Who Why How And But For Not You Your Our Their"
    b" His Her Its"
    b" All Any Some Please Thanks Thank Team Sir Madam Support Everyone Folks World Customer User Users Name Date"
    b" Email Phone"
    b" Address None Null True False Id ID Type Number Unknown Service Order Account Monday Tuesday Wednesday"
    b" Thursday Friday"
    b" Saturday Sunday January February March April May June July August September October November December"
    b" Parent Parents"
    b" Doctor Patient Student Teacher Hiring Manager Sales Admin Administrator Assistant System Customers"
    b" Colleagues Friends"
    b" Friend Test Yes No Ok Okay In On At If To As It We They He She Is Are Was Do Does Did Can Could Would"
    b" Should Will Regards Wishes Greetings"
    b" DOB MRN SSN ID IP URL PIN VAT EIN TIN IBAN CVV API".split()
)
_THINGS = frozenset(
    b"Server Service Services Production Staging Database Project Product Company Group Department Office Meeting"
    b" Report Version Update Error Warning Debug Default Home Page Data File Client Host Global Team System Account"
    b" Order Street Road Avenue University School College Bank Inc Ltd LLC GmbH Corp Corporation".split()
)
"""Words that make a name of several words the name of a thing."""
_TRAILING = re.compile(rb"(?:'s|\xe2\x80\x99s)$")


def _name(scan: Scan, at: int, parts: int = 1) -> int:
    """Add the name that starts at byte `at`; its end, or `at` if there is none of at least `parts` words."""
    match = _NAME.match(scan.data, at, at + 100)
    if match is None:
        return at
    text = _TRAILING.sub(b"", match[0])
    tokens = text.split()
    if tokens[0].rstrip(b".") in _NOT:
        return at
    while tokens and tokens[-1].rstrip(b".") in _NOT:
        tokens.pop()
    if len(tokens) < parts or (len(tokens) > 1 and not _THINGS.isdisjoint(tokens)):
        return at
    size = text.find(tokens[-1], len(b" ".join(tokens)) - len(tokens[-1])) + len(tokens[-1])
    scan.add(at, at + size, "PERSON", CONTEXT)
    return at + size


_PLAIN_NAME = re.compile(
    _UPPER + rb"(?:(?![A-Z])" + _LETTER + rb"|[.'-]|\xe2\x80\x99|Mc|Mac)+(?![A-Za-z0-9_(])|(?:Mc|Mac|O')[A-Z]"
)


_SENTENCE = re.compile(rb"[.!][ \n]+$|\n\n$")
_WEAK = re.compile(
    rb"(?i:(this is)|(i am|i'm|i\xe2\x80\x99m)|contact|call|ask|email|tell|told|asked|says|against|between)[ \n]"
)
"""Phrases that things follow as well; a single word behind most of them is no name."""
_SPEAKS = re.compile(rb" (?:from|here|calling|speaking)\b")
_CLAUSE = re.compile(rb"[,.!?;:\n]|$| (?:and|from|here|calling|speaking|at|with|to|on|about|that|if|for|the|your|a)\b")
"""What may stand behind a single word that is a name, after `this is` and after `I am`."""


def _examine(scan: Scan, start: int, end: int) -> int:
    # The candidate ends with the name's first byte (or its lead byte); step back to it.
    scan.work += 200
    data = scan.data
    at = end - 1
    weak = _WEAK.match(data, start)
    # A new sentence may begin behind `Thanks.`; two capitalised words are a signature.
    parts = 2 if (weak is not None and weak.lastindex is None) or _SENTENCE.search(data[start:at]) else 1
    stop = _name(scan, at, parts)
    if stop > at and weak is not None and weak.lastindex and b" " not in data[at:stop]:
        follow = _SPEAKS if weak.lastindex == 1 else _CLAUSE
        if follow.match(data, stop) is None:
            scan.found.pop()
            return at
    return stop  # what is no name may begin another phrase: `Hello, I am Ann`


def _examine_field(scan: Scan, start: int, end: int) -> int:
    scan.work += 200
    at = end - 1
    first = _PLAIN_NAME.match(scan.data, at, at + 40)
    if first is None:
        return at  # `name = SomeClass`, `NAME="AEN"`
    return _name(scan, at, 2 if b"=" in scan.data[start:end] else 1)


def _examine_before(scan: Scan, start: int, end: int) -> int:
    """The capitalised words that end where the candidate starts."""
    low = max(scan.floor, start - 80)
    scan.work += 600
    name = None
    for name in _NAMES_BEFORE.finditer(scan.data, low, start):  # noqa: B007 - the last one is wanted
        pass
    if name is not None and name.end() == start:
        parts = 1 if scan.data[start : start + 2] != b" h" else 2
        _name(scan, name.start(), parts)
    return start + 1  # the words behind the name may be a label themselves


_NAMES_BEFORE = re.compile(rb"(?<![A-Za-z0-9@.])" + _WORD + rb"(?: (?:" + _LINK + rb" )?" + _WORD + rb"){0,3}")


def _examine_title(scan: Scan, start: int, end: int) -> int:
    scan.work += 200
    match = _NAME.match(scan.data, end - 1, end + 100)
    if match is None:
        return end
    text = _TRAILING.sub(b"", match[0])
    scan.add(start, end - 1 + len(text), "PERSON", CONTEXT)
    return end - 1 + len(text)


_HEADS = rb"(?:[A-Z]|[\xc3-\xc5\xce\xd0])"
_LABELS = (
    rb"(?:(?:full|first|last|customer|patient|student|employee|contact|client|account holder|holder|emergency"
    rb" contact|billing)[ _]?)?name"
    rb"|patient(?: card(?: for)?)?"
    rb"|contact person|account manager|spouse|guardian|next of kin|employee|customer|client|contact"
    rb"|emergency contact|policy ?holder|insured|student"
    rb"|attorney|lawyer"
    rb"|physician|(?:attending |referring |primary care )?(?:physician|doctor|nurse)|professor|teacher|author"
    rb"|sender|recipient"
    rb"|from|to|bill to|ship to|attn|signed|user|card ?holder|credit card holder|tenant|landlord|witness|defendant"
    rb"|plaintiff|owner|applicant"
    rb"|reported by|assigned to|created by|cc|name des patienten|kunde|nom|nombre|nome|naam"
)
_TYPES = frozenset({"PERSON"})
PERSON_TITLE = Recognizer(
    "person_title",
    _TYPES,
    rb"\b(?:Mr|Mrs|Ms|Mx|Dr|Prof|Miss|Mme|Mlle|Herr|Frau|Signor|Signora|Sr|Sra)\.? " + _HEADS,
    b"MDPHFS",
    _examine_title,
)
PERSON_FIELD = Recognizer(
    "person_field",
    _TYPES,
    rb"(?i:\b(?:" + _LABELS + rb")[\"']?)[ \t]{0,2}[:=|][ \t]{0,3}\n?[\"']?" + _HEADS,
    both_cases("fclpsebhaditrouwnkvmg"),
    _examine_field,
    labels=_LABELS,
)
_PHRASES = (
    rb"my name(?: is|'s|\xe2\x80\x99s)|name is|i am|i'm|this is|names? (?:are|was)|je m'appelle|ich hei\xc3\x9fe"
    rb"|me llamo|mi chiamo|mein name ist|signed by|sent by|written by|placed by|on behalf of"
    rb"|attorney|lawyer|husband,?|wife,?|daughter|son"
    rb"|child,|spouse,?|colleague|neighbou?r|hi|hello|hey|dear|good (?:morning|afternoon|evening),?|regards|sincerely"
    rb"|thanks|cheers|best|ship to|patient|member id [a-z0-9-]{4,20} for|please (?:update|contact|call|ask)"
    rb"|contact|resume of|welcome|congratulations|thank you|certif(?:y|ies) that|defendant,?|plaintiff,?|executor,?"
    rb"|witness,?|against|between"
    rb"|estate of|statement for|ticket from|letter from|sent to|says|asked|told|emailed|i\xe2\x80\x99m"
)
PERSON_SAID = Recognizer(
    "person_said",
    _TYPES,
    rb"(?i:\b(?:" + _PHRASES + rb"))[,.!]?[ \n]{1,3}" + _HEADS,
    both_cases("mnitjsowpahcldgbrevx"),
    _examine,
    labels=_PHRASES,
)


def _examine_speaker(scan: Scan, start: int, end: int) -> int:
    scan.work += 250
    at = start + 1
    while at < end and scan.data[at] in b" \t]":
        at += 1
    at = scan.data.rfind(b"]", start, end) + 2
    stop = _name(scan, at)
    return max(end, stop)


PERSON_SPEAKER = Recognizer(
    "person_speaker",
    _TYPES,
    rb"\[[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?: [AP]M)?\] [A-Z][a-z]",
    b"[",
    _examine_speaker,
)

PERSON_BEFORE = Recognizer(
    "person_before",
    _TYPES,
    rb" (?:[<(]|\| ?)[A-Za-z0-9._%+-]+@| date of birth\b| here \(|,? born (?:on|in)\b"
    rb"|(?:'s|\xe2\x80\x99s) (?:e-?mail|phone|address|account|birthday|date of birth|daughter|son|wife|husband"
    rb"|mother|father|ssn|passport|password)\b",
    b" ,'\xe2",
    _examine_before,
)


def _examine_behind(scan: Scan, start: int, end: int) -> int:
    """The name of whom a number is: `MRN 4471 / Ann Lee`, `passport X123 (Ann Lee)`, `member id 12 for Ann Lee`."""
    scan.work += 200
    stop = _name(scan, end - 1, 2)
    if stop > end - 1 and scan.data[start + 2 : start + 3] == b"(" and scan.data[stop : stop + 1] != b")":
        scan.found.pop()
        return end - 1
    return max(end - 1, stop)


PERSON_BEHIND = Recognizer("person_behind", _TYPES, rb"[0-9](?: \(| / | for )" + _HEADS, b"0123456789", _examine_behind)
_LINE = re.compile(_WORD + rb"(?:[ \t]{1,2}(?:" + _LINK + rb"[ \t])?(?:" + _WORD + rb"|[A-Z]\.)){1,3}[ \t]*\r?\Z")


def _examine_block(scan: Scan, start: int, end: int) -> int:
    """A line of two to four names above a line that begins with a house number: the head of an address."""
    scan.work += 150
    data = scan.data
    line = max(scan.floor, data.rfind(b"\n", max(0, start - 80), start) + 1)
    if line < start - 80 or _LINE.match(data, line, start) is None:
        return start + 1
    _name(scan, line, 2)
    return start + 1


PERSON_BLOCK = Recognizer("person_block", _TYPES, rb"\n{1,2}[0-9]{1,5},? [A-Z]", b"\n", _examine_block)
