"""SECRET by context and entropy, PASSWORD by context.

A name such as `API_KEY`, `clientSecret` or `password`, an assignment, and a value: what the value must look like
depends on the name. A password may be any word behind `:` or `=`; a key or token has to look generated.
"""

from __future__ import annotations

import re

from proxy.policies.pii.found import CONTEXT
from proxy.policies.pii.recognizers.base import Recognizer, both_cases
from proxy.policies.pii.recognizers.randomness import is_filler, is_uuid, looks_random
from proxy.policies.pii.recognizers.secret import MALFORMED
from proxy.policies.pii.scan import Scan

_KEY_NAMES = (
    rb"api[_. -]?key|access[_. -]?key(?:[_. -]?id)?|secret[_. -]?key|secret[_. -]?access[_. -]?key"
    rb"|private[_. -]?key|auth[_. -]?key"
    rb"|account[_. -]?key|encryption[_. -]?key|signing[_. -]?key|master[_. -]?key|client[_. -]?secret|access[_. -]?id"
    rb"|[_-]key|secret|token|credentials?|apikey|authtoken|bearer|passphrase"
)
_PASSWORD_NAMES = (
    rb"pass(?:word|wd|code|phrase)|(?:\b|_)pass|pwd|passwort|kennwort|contrase\xc3\xb1a|mot de passe|wachtwoord|senha"
)
_ASSIGN = (
    rb"(?:[0-9]{1,3}|[_-][a-z0-9_-]{1,16}|\])?[\"'`)]{0,2}[ \t]{0,3}"
    rb"(?::{1,3}=|=>|={1,3}|:|\bis\b|\bwas\b|->|<<<)[ \t]{0,3}[\"'`(]{0,2}"
)
_VALUE = re.compile(rb"[A-Za-z0-9_+/.~:$#@!%^&*?|-]{6,512}={0,3}")
_QUOTED = re.compile(rb"[^\"'`\s\\]{4,128}")
_PLAIN = re.compile(rb"[^\s\"'`<>,;(){}\[\]\\]{4,128}")
_PROOF = 6
_NOT_PASSWORDS = frozenset(
    b"required incorrect invalid wrong reset changed string str text none null true false undefined password"
    b" passwd pass secret"
    b" hidden prompt optional empty expired missing correct field input type bool boolean number object the your"
    b" this that"
    b" must should cannot needed protected unknown self args env environ getenv config value default not too weak"
    b" strong"
    b" here below above following stored hashed encrypted process settings params redacted".split()
)


def _examine_key(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    scan.work += 200
    end -= _PROOF  # the candidate holds the first bytes of the value
    name = data[start:end].lower()
    if b"csrf" in data[max(0, start - 8) : end].lower() or b"public" in data[max(0, start - 8) : start].lower():
        return end
    match = _VALUE.match(data, end)
    if match is None:
        return end
    text = match[0].rstrip(b".:!?&|")
    scan.work += 100
    follow = data[end + len(text) : end + len(text) + 1]
    if follow in (b"(", b"[") or MALFORMED.match(text) is not None or text[:1] in b"$":
        return end
    generic = b"key" in name and b"api" not in name and b"secret" not in name and b"access" not in name
    least = 16 if generic else (12 if b"id" in name else 10)
    if is_uuid(text) and name.rstrip(b"\"'`:= \t").endswith(b"id"):
        return end + len(text)
    if data[end + len(text) : end + len(text) + 3] == b"...":
        return end + len(text)  # cut off in an example
    scan.work += 500 + len(text)
    if len(text) < least or not looks_random(text, 3.0 if len(text) >= 16 else 2.8):
        return end
    if b"/" in text and text.count(b"/") > len(text) // 8 and b"." in text:
        return end + len(text)  # a path
    if _dotted(text):
        return end + len(text)
    scan.add(end, end + len(text), "SECRET", CONTEXT)
    return end if text[:3] == b"eyJ" else end + len(text)  # a token with a header of its own is better known as JWT


def _dotted(text: bytes) -> bool:
    """True for `module.attribute` and file names: parts of plain words with dots between."""
    parts = text.split(b".")
    return len(parts) > 1 and all(len(p) < 16 for p in parts)


def _examine_password(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    scan.work += 150
    head = data[start:end]
    quoted = head[-1:] in (b'"', b"'", b"`")
    match = (_QUOTED if quoted else _PLAIN).match(data, end)
    if match is None:
        return end
    text = match[0]
    if not quoted:
        text = text.rstrip(b".!?:|" if b"=" not in head else b"|&")
        if b"&" in text and b"=" in text[text.find(b"&") :]:
            text = text[: text.find(b"&")]  # a query string goes on behind it
    scan.work += 100 + len(text)
    low = text.lower()
    if len(text) < 4 or low in _NOT_PASSWORDS or is_filler(text) or text[:1] in b"$<{[%" or not text.strip(b"*.-_"):
        return end
    follow = data[end + len(text) : end + len(text) + 1]
    if not quoted and _is_code(low, head, follow):
        return end
    if follow in (b"(", b"[") or low.startswith((b"os.", b"process.", b"self.", b"env.", b"settings.", b"config.")):
        return end
    if not quoted and text.isalpha() and b"=" not in head:
        # `password: hunter` is one, `the password is wrong` and `Password: please enter` are prose.
        if b":" not in head or text.islower() is False or data[end + len(text) : end + len(text) + 2][1:].isalpha():
            return end
        if data[end + len(text) : end + len(text) + 1] == b" ":
            return end
    scan.add(end, end + len(text), "PASSWORD", CONTEXT)
    return end + len(text)


def _is_code(low: bytes, head: bytes, follow: bytes) -> bool:
    """True for an unquoted value that is a variable or an attribute: `password = user`, `passwd=self.passwd,`."""
    if not low.translate(None, b"_.").isalpha():
        return False
    if b"pass" in low or b"pwd" in low or b"." in low.strip(b"."):
        return True
    return b"=" in head and (b" =" in head or follow in (b",", b")", b"("))


SECRET_CONTEXT = Recognizer(
    "secret_context",
    frozenset({"SECRET"}),
    rb"(?i:(?:" + _KEY_NAMES + rb")" + _ASSIGN + rb"[a-z0-9_+/$.~-]{6})",
    both_cases("asepmctbk") + b"_-",
    _examine_key,
    labels=_KEY_NAMES,
)
PASSWORD = Recognizer(
    "password",
    frozenset({"PASSWORD"}),
    rb"(?i:(?:" + _PASSWORD_NAMES + rb")" + _ASSIGN + rb")",
    both_cases("pkcmws") + b"_",
    _examine_password,
)


_BARE = re.compile(rb"[A-Za-z0-9_+/=.~-]{16,4096}")


def _examine_bearer(scan: Scan, start: int, end: int) -> int:
    scan.work += 200
    at = scan.data.rfind(b" ", start, end) + 1
    match = _BARE.match(scan.data, at)
    if match is None:
        return end
    text = match[0].rstrip(b".")
    scan.work += 500 + len(text)
    if MALFORMED.match(text) is None and looks_random(text):
        scan.add(at, at + len(text), "SECRET", CONTEXT)
        return at if text[:3] == b"eyJ" else at + len(text)
    return at  # a prefix may still say more


BEARER = Recognizer(
    "bearer",
    frozenset({"SECRET"}),
    rb"(?i:\b(?:bearer|basic|token|key|--token|apikey)) [A-Za-z0-9_+/=.~-]{16}",
    both_cases("btka") + b"-",
    _examine_bearer,
)
_USER = re.compile(rb"[\"']?([^\s\"'<>:$]{0,64}:[^\s\"'<>{}]{4,100})")


def _examine_curl(scan: Scan, start: int, end: int) -> int:
    scan.work += 200
    at = start + (4 if scan.data[start + 2 : start + 3] == b"u" else 8)
    match = _USER.match(scan.data, at)
    if match is None or is_filler(match[1]) or b"://" in match[1] or match[1].endswith((b":password", b":pass")):
        return at
    if scan.data.rfind(b"curl", max(0, start - 400), start) < 0:
        return at
    scan.add(match.start(1), match.end(1), "SECRET", CONTEXT)
    return match.end()


CURL_USER = Recognizer(
    "curl_user",
    frozenset({"SECRET"}),
    rb" (?:-u|--user)[ =][\"']?[A-Za-z0-9_.:@-]",
    b" ",
    _examine_curl,
)


_CLIENT = re.compile(rb"\b(?:mysql|mysqldump|mysqladmin|mariadb|sshpass|sqlcmd|redis-cli)\b")


def _examine_option(scan: Scan, start: int, end: int) -> int:
    """`mysql -u root -phunter2`: the password right behind the option's letter."""
    scan.work += 150
    at = start + 3
    match = _PLAIN.match(scan.data, at)
    if match is None or is_filler(match[0]) or match[0][:1] == b"$":
        return at
    if _CLIENT.search(scan.data, max(0, start - 120), start) is None:
        return at
    scan.add(at, match.end(), "PASSWORD", CONTEXT)
    return match.end()


PASSWORD_OPTION = Recognizer(
    "password_option", frozenset({"PASSWORD"}), rb" -[pPa][A-Za-z0-9!@#%^&*_]", b" ", _examine_option
)


def _examine_pair(scan: Scan, start: int, end: int) -> int:
    """`login: admin / Winter2024!`: a name and, behind a slash, what has to be a password."""
    scan.work += 200
    match = _PLAIN.match(scan.data, end)
    if match is None:
        return end
    text = match[0].rstrip(b".!?" if match[0].isalnum() else b"")
    if is_filler(text) or text.isalpha() or not any(48 <= c <= 57 for c in text) or text.isdigit():
        return end
    scan.add(end, end + len(text), "PASSWORD", CONTEXT)
    return end + len(text)


PASSWORD_PAIR = Recognizer(
    "password_pair",
    frozenset({"PASSWORD"}),
    rb"(?i:\b(?:login|log-in|credentials?|creds|account|user(?:name)?)[:=] ?[a-z0-9._@-]{2,40} ?/ ?)",
    both_cases("lcau"),
    _examine_pair,
)
