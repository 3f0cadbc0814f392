"""SECRET by prefix: keys and tokens whose issuer marks them.

The table says how each issuer's credential looks; where only a length was published the pattern allows for growth.
A known prefix with a body that does not fit (`xoxp-1234-1234`) is no secret, whatever label it stands behind.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from proxy.policies.pii.found import PREFIX
from proxy.policies.pii.recognizers.base import Recognizer, alternatives
from proxy.policies.pii.recognizers.randomness import entropy, is_filler
from proxy.policies.pii.scan import Scan

_W = rb"[A-Za-z0-9_-]"
_A = rb"[A-Za-z0-9]"
_H = rb"[0-9a-f]"
# (prefix as an RE2 alternative, whole credential)
_TABLE: tuple[tuple[bytes, bytes], ...] = (
    # model providers
    (rb"sk-ant-", rb"sk-ant-[a-z0-9]{2,12}-" + _W + rb"{24,200}"),
    (rb"sk-or-v1-", rb"sk-or-v1-" + _H + rb"{64}"),
    (
        rb"sk-",
        rb"sk-(?:(?:proj|svcacct|admin|None|service)-" + _W + rb"{20,220}|" + _A + rb"{20,200}|lf-" + _W + rb"{36})",
    ),
    (rb"hf_|api_org_", rb"(?:hf_|api_org_)" + _A + rb"{30,60}"),
    (rb"gsk_", rb"gsk_" + _A + rb"{40,80}"),
    (rb"xai-", rb"xai-" + _A + rb"{60,120}"),
    (rb"nvapi-", rb"nvapi-" + _W + rb"{60,100}"),
    (rb"pplx-", rb"pplx-" + _A + rb"{40,80}"),
    (rb"r8_", rb"r8_" + _A + rb"{37,60}"),
    (rb"fw_", rb"fw_" + _A + rb"{22,60}"),
    (rb"tgp_v1_", rb"tgp_v1_" + _W + rb"{40,80}"),
    (rb"lsv2_(?:pt|sk)_", rb"lsv2_(?:pt|sk)_" + _H + rb"{32}_" + _H + rb"{10}"),
    # clouds
    (rb"A(?:KIA|SIA|BIA|CCA|IDA|ROA|3T[A-Z0-9])[A-Z0-9]", rb"A(?:KIA|SIA|BIA|CCA|IDA|ROA|3T[A-Z0-9])[A-Z0-9]{16}"),
    (rb"AIza", rb"AIza" + _W + rb"{35}"),
    (rb"GOCSPX-", rb"GOCSPX-" + _W + rb"{28}"),
    (rb"ya29\.", rb"ya29\." + _W + rb"{20,300}"),
    (rb"8Q~", rb"[A-Za-z0-9_~.]{3}8Q~[A-Za-z0-9_~.-]{31,34}"),
    (rb"do[opr]_v1_", rb"do[opr]_v1_" + _H + rb"{64}"),
    (rb"dapi[0-9a-f]", rb"dapi" + _H + rb"{32}(?:-[0-9])?"),
    (rb"LTAI", rb"LTAI" + _A + rb"{17,21}"),
    (rb"fo1_", rb"fo1_" + _W + rb"{43}"),
    (rb"Fly(?:V1)? fm[12]", rb"Fly(?:V1)? fm[12][a-z]?_[A-Za-z0-9+/]{60,}={0,3}"),
    (rb"hvs\.|hvb\.", rb"hv[sb]\." + _W + rb"{24,300}"),
    (rb"[sb]\.[A-Za-z0-9]{2}", rb"[sb]\." + _A + rb"{24}"),
    (rb"pul-[0-9a-f]", rb"pul-" + _H + rb"{40}"),
    (rb"pscale_", rb"pscale_(?:pw|tkn|oauth)_" + _W + rb"{32,64}"),
    (rb"sbp_|sb_secret_", rb"(?:sbp_" + _H + rb"{40}|sb_secret_" + _W + rb"{20,80})"),
    # code hosts and registries
    (rb"gh[pousr]_", rb"gh[pousr]_" + _A + rb"{36,255}"),
    (rb"github_pat_", rb"github_pat_[A-Za-z0-9_]{22,255}"),
    (
        rb"gl(?:pat|dt|rt|cbt|ft|imt|agent|soat|oas|rtr)-",
        rb"gl(?:pat|dt|rt|cbt|ft|imt|agent|soat|oas|rtr)-[\w.-]{20,60}",
    ),
    (rb"glptt-", rb"glptt-" + _H + rb"{40}"),
    (rb"GR1348941", rb"GR1348941" + _W + rb"{20,60}"),
    (rb"npm_", rb"npm_" + _A + rb"{36}"),
    (rb"pypi-AgE", rb"pypi-AgE" + _W + rb"{50,300}"),
    (rb"rubygems_", rb"rubygems_" + _H + rb"{48}"),
    (rb"dckr_pat_", rb"dckr_(?:pat|oat)_" + _W + rb"{27,40}"),
    (rb"ATATT3|ATBB", rb"(?:ATATT3[\w=-]{60,250}|ATBB" + _A + rb"{32})"),
    (rb"CLOJARS_", rb"CLOJARS_[0-9a-z]{60}"),
    (rb"API-[A-Z0-9]{8}", rb"API-[A-Z0-9]{26}"),
    # chat, mail, payments
    (
        rb"xox[bp]-",
        rb"xoxb-[0-9]{8,14}-(?:[0-9]{8,14}-)?" + _W + rb"{14,40}|xoxp-(?:[0-9]{10,13}-){2,3}[A-Za-z0-9-]{28,34}",
    ),
    (rb"xox[aeors]-", rb"xox[aeors]-(?:[0-9]-)?(?:[0-9]{4,13}-){1,3}[0-9A-Za-z]{8,64}"),
    (rb"xapp-", rb"xapp-[0-9]-[A-Z0-9]{8,14}-[0-9]{8,16}-[a-z0-9]{40,80}"),
    (
        rb"https?://hooks\.slack\.com/",
        rb"https?://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9+/]{40,64}",
    ),
    (
        rb"https://[a-z0-9-]+\.webhook\.office",
        rb"https://[a-z0-9-]{1,40}\.webhook\.office\.com/webhookb2/[\w@/-]{60,220}",
    ),
    (
        rb"https://discord(?:app)?\.com/api/web",
        rb"https://discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/" + _W + rb"{60,70}",
    ),
    (rb"SG\.", rb"SG\." + _W + rb"{18,24}\." + _W + rb"{39,50}"),
    (rb"(?:[sr]k|pk)_(?:live|test|prod)_", rb"(?:[sr]k|pk)_(?:live|test|prod)_" + _A + rb"{10,120}"),
    (rb"whsec_", rb"whsec_[A-Za-z0-9+/=]{24,80}"),
    (rb"EAAA[A-Za-z0-9]", rb"EAAA[A-Za-z0-9_+=-]{56,64}"),
    (rb"EAA[MC]", rb"EAA[MC]" + _A + rb"{90,250}"),
    (rb"sq0(?:atp|csp|idp)-", rb"sq0(?:atp|csp|idp)-" + _W + rb"{22,50}"),
    (rb"shp(?:at|ca|pa|ss)_", rb"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}"),
    (rb"key-[0-9a-f]{8}", rb"key-" + _H + rb"{32}"),
    (rb"SK[0-9a-f]{8}", rb"SK" + _H + rb"{32}"),
    (rb"-us[0-9]", rb"[0-9a-f]{32}-us[0-9]{1,2}"),
    (rb"[0-9]+:AA", rb"[0-9]{8,10}:AA" + _W + rb"{33}"),
    (
        rb"[MNO][A-Za-z0-9]+\.[A-Za-z0-9_-]{6}\.",
        rb"[MNO]" + _W + rb"{23,25}\." + _W + rb"{6}\." + _W + rb"{27,38}",
    ),
    (rb"[0-9]+(?:\||%7C)", rb"[0-9]{15,16}(?:\||%7C)" + _W + rb"{27,40}"),
    # monitoring, planning, tools
    (rb"glsa_", rb"glsa_" + _A + rb"{32}_[0-9A-Fa-f]{8}"),
    (rb"glc_", rb"glc_[A-Za-z0-9+/]{32,400}={0,2}"),
    (rb"sntrys_eyJ", rb"sntrys_eyJ[A-Za-z0-9+/_=]{80,500}"),
    (rb"sntryu_", rb"sntryu_" + _H + rb"{64}"),
    (rb"NRAK-", rb"NRAK-[A-Z0-9]{27}"),
    (rb"dp\.(?:pt|st|ct|sa|scim|audit)\.", rb"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9_.-]{40,80}"),
    (rb"lin_(?:api|oauth)_", rb"lin_(?:api|oauth)_" + _A + rb"{32,64}"),
    (rb"ntn_|secret_[A-Za-z0-9]{8}", rb"(?:ntn_" + _A + rb"{40,60}|secret_" + _A + rb"{43})"),
    (rb"PMAK-", rb"PMAK-" + _H + rb"{24}-" + _H + rb"{34}"),
    (rb"ico-[A-Za-z0-9]", rb"ico-" + _A + rb"{32}"),
    (rb"figd_", rb"figd_" + _W + rb"{40}"),
    (rb"shippo_", rb"shippo_(?:live|test)_" + _H + rb"{40}"),
    (rb"tfp_", rb"tfp_[\w.-]{59}"),
    (rb"ops_eyJ", rb"ops_eyJ[A-Za-z0-9+/_=-]{200,2000}"),
    (rb"AGE-SECRET-KEY-1", rb"AGE-SECRET-KEY-1[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    (rb"\.atlasv1\.", _A + rb"{14}\.atlasv1\.[A-Za-z0-9=_-]{60,80}"),
    (rb"AccountKey=|SharedAccessKey=", rb"(?:AccountKey=|SharedAccessKey=)[A-Za-z0-9+/]{42,86}={1,2}"),
)
_LABELLED = (b"AccountKey=", b"SharedAccessKey=")
_WORD = re.compile(rb"[A-Za-z0-9_-]")


def _examine(scan: Scan, start: int, end: int) -> int:
    # The candidate is the prefix; the table's order is the alternation's, and a body is matched once.
    return _take(scan, start, start, _whole_from(scan.data[start]))


def _take(scan: Scan, candidate: int, start: int, whole: re.Pattern[bytes]) -> int:
    """Take the credential that begins at `start`, for which the candidate was a sign."""
    data = scan.data
    scan.work += 150
    match = whole.match(data, start)
    if match is None:
        return candidate + 1  # `s.miller@x.io` begins like a token
    stop = match.end()
    scan.work += 400 + stop - start
    text = match[0].rstrip(b".-_" if match[0][-1:] in b".-" else b".")
    for label in _LABELLED:
        if text.startswith(label):
            start += len(label)
            text = text[len(label) :]
    if _WORD.match(data, stop) is not None and match[0][:4] not in (b"http", b"EAAA", b"dp.p"):
        return stop
    if text[1:2] == b"." and text.count(b".") == 1 and not any(48 <= c <= 57 for c in text):
        return stop  # an attribute, not a vault token
    if is_filler(text) or entropy(text) < 3.0:
        return stop
    scan.add(start, start + len(text), "SECRET", PREFIX)
    return stop


def _first(prefix: bytes) -> set[int]:
    """The bytes a prefix of the table can start with: literals, classes and alternatives of these."""
    first: set[int] = set()
    for part in alternatives(prefix):
        if part[:3] == b"(?:":
            first |= _first(part[3 : part.index(b")")])
        elif part[:1] == b"\\":
            first.add(part[1])
        elif part[:1] == b"[":
            first |= {c for c in range(256) if re.match(part[: part.index(b"]") + 1], bytes((c,)))}
        else:
            first.add(part[0])
    return first


def _recognizer(name: str, table: tuple[tuple[bytes, bytes], ...]) -> Recognizer:
    body = b"|".join(prefix for prefix, _ in table)
    starts = bytes(sorted(set().union(*(_first(prefix) for prefix, _ in table))))
    pattern = rb"\b(?:" + body + rb")[A-Za-z0-9_.+/=@-]{6}"
    return Recognizer(name, frozenset({"SECRET"}), pattern, starts, _examine, labels=body, pure=True)


_INSIDE = {b"8Q~": 3, rb"\.atlasv1\.": 14, b"-us[0-9]": 32}
"""Marks that stand inside a credential, and how many bytes of it stand before them."""
_BEGINNING = tuple(row for row in _TABLE if row[0] not in _INSIDE)


def _wholes(rows: Iterable[tuple[bytes, bytes]]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(b"(?:" + whole + b")" for _, whole in rows))


@functools.cache
def _whole_from(byte: int) -> re.Pattern[bytes]:
    """The credentials that can begin with a byte: a third of the table's patterns at most."""
    return _wholes(row for row in _BEGINNING if byte in _first(row[0]))


_WHOLE_INSIDE = _wholes(row for row in _TABLE if row[0] in _INSIDE)
SECRET = _recognizer("secret", _BEGINNING)
"""Credentials that start with their mark."""


def _examine_inside(scan: Scan, start: int, end: int) -> int:
    data = scan.data
    before = 32 if data[start] == 0x2D else 14 if data[start] == 0x2E else 3
    if start - before < scan.floor:
        return end
    return max(end, _take(scan, start, start - before, _WHOLE_INSIDE))


SECRET_INSIDE = Recognizer("secret_inside", frozenset({"SECRET"}), b"|".join(_INSIDE), b"8.-", _examine_inside)
"""Credentials whose mark stands inside or at the end."""

MALFORMED = re.compile(rb"xox[a-z]-|ops_eyJ|gh[pousr]_|sk-ant-|glptt-|glpat-|sntry[su]_|AKIA|hf_")
"""Prefixes of which a label does not make a secret when the body does not fit."""
