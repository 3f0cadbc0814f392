"""The detector: offsets, overlaps, types, and the bound on its work."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.policies.pii.custom import CustomEntity
from proxy.policies.pii.detector import Detector
from proxy.policies.pii.found import BARE, CHECKSUM, CONTEXT, ENTITY_TYPES, PREFIX, Found, resolve
from proxy.policies.pii.program import UNANCHORED
from proxy.policies.pii.recognizers import enabled
from proxy.policies.pii.scan import WORK_FREE, WORK_PER_BYTE, WorkExceededError

HOSTILE = {
    "pem headers": "-----BEGIN RSA PRIVATE KEY-----\n",
    "pem with body": "-----BEGIN RSA PRIVATE KEY-----AAAA",
    "digits": "1234567890",
    "digits and spaces": "4 ",
    "digit pairs": "12 34 56 78 90 ",
    "card quarters": "4111 1111 ",
    "cards": "4111111111111111-",
    "at": "@",
    "a at": "a@",
    "mail": "a@b.co ",
    "brackets": "[",
    "json": '{"a":',
    "one letter": "a",
    "colons": ":",
    "v6": "a::1",
    "password": "password: ",
    "passwords": "password=a ",
    "token": "token: ",
    "jwt": "eyJhbGciOi.",
    "jwts": "eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.",
    "keys": "sk-",
    "names": "Mr. A ",
    "iban": "DE89",
    "birth": "dob ",
    "births": "born May ",
    "account": "account no 1 ",
    "curl": "curl ",
    "street": "12 Abc Def Ghi ",
    "url": "://a:",
    "zero x": "0x",
    "dotted": "1.",
    "base58": "1" + "A" * 30 + " ",
    "cjk": "中文",
    "underscore": "_",
    "fours": "4111 1111 1111 1112 ",
    "zeros": "0000 ",
    "dialled": "0012 ",
    "national": "01 23 ",
    "brackets and digits": "1 (2",
    "dates": "01/02/2024 ",
    "years": "2020-2021 ",
    "quads": "1.2.3.4 ",
    "abroad": "+1 2345678 ",
    "phones": "555-123-4567 ",
    "ssns": "123-45-6789 ",
    "named numbers": "phone 123456789 ",
    "words that name": "phone tel call ",
    "columns": "id;ssn;tel\n1;219099999;61237858\n",
    "iban groups": "IBAN DE89 3704 0044 ",
    "key without end": "api_key=abcdef",
    "secret": "secret=",
    "pass": "_pass=",
    "inside marks": "-us1",
    "atlas": ".atlasv1.",
    "slack": "xoxb-",
    "bearer": "bearer abcdefghijklmnop1234 ",
    "address fields": "address: 1 ",
    "national ids": "national id 44051401359 ",
    "cpf": "111.444.777-35 ",
    "tax": "tin 123456789 ",
    "records": "mrn: 12345 ",
    "bech32": "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdz ",
    "ethereum": "0x52908400098527886E0F7030069857D2E4169EE7 ",
    "ethereum wrong": "0x52908400098527886e0F7030069857D2E4169EE7 ",
    "link local": "fe80::1 ",
    "mac": "00-11-",
    "names before": "Aa Aa Aa Aa <a@b",
    "fields": "name: Bob\n",
    "names behind": "1 for Aa ",
    "blocks": "\n\n1 A",
    "pairs": "login: a / ",
    "options": "mysql -pabcd1 ",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_work_grows_linearly_whatever_the_text(detector: Detector, name: str) -> None:
    unit = HOSTILE[name]

    def work(size: int) -> int:
        return detector.scan(unit * (size // len(unit)))[1]

    try:
        small, large = work(20_000), work(80_000)
    except WorkExceededError:
        return
    assert large <= 4.5 * small + 16_384
    assert large <= WORK_FREE + WORK_PER_BYTE * 80_000


DENSE = {
    "contacts": "ann{i},ann{i}@example.com,+49 30 90{i:05},DE89370400440532013000,4111 1111 1111 1111,{i} Maple Street\n",
    "mails": "ann{i}@example.com, ",
    "phones": "(415) 555-{i:04}\n",
    "phones in a line": "+1 415 555 {i:04} / ",
    "ssns": "219-09-{i:04}\n",
    "cards": "4111 1111 1111 1111\n",
    "addresses": "10.2.{j}.{j}\n",
    "log": "2024-05-06T12:30:{k:02}Z 10.2.3.{j} GET /a/{i} 200 {i} user=u{i}\n",
    "environment": "API_KEY_{i}=9sOL4gj3Utn0gaWW22065OUv{i}\n",
    "passwords": "password: p{i}x!q\n",
    "names": "Mr. Bob Smith\n",
    "births": "DOB: 1980-01-{k:02}\n",
    "numbers": "{i} {j} 3.{k:02} {i}{i} 17 ",
    "times": "17000{i:05}123, ",
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_real_data_is_not_refused(detector: Detector, name: str) -> None:
    rows = (DENSE[name].format(i=i % 10_000, j=i % 250, k=1 + i % 28) for i in range(100_000))
    text = ""
    for row in rows:
        text += row
        if len(text) > 100_000:
            break
    detector.detect(text)


def test_what_costs_much_and_proves_little_is_done_so_often_and_no_more(detector: Detector) -> None:
    address = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed "
    found = detector.detect(address * 100)
    assert len(found) == 100  # those that were not verified count by their shape
    assert {one.rank for one in found} == {PREFIX, CHECKSUM}
    assert detector.scan(address * 100)[1] < WORK_FREE


def test_the_cap_fails_closed() -> None:
    detector = Detector(["EMAIL"])
    with pytest.raises(WorkExceededError):
        _exhaust(detector)


def _exhaust(detector: Detector) -> None:
    from proxy.policies.pii.scan import Scan

    scan = Scan(b"x")
    while True:
        scan.spend(1_000)


def test_offsets_are_code_points() -> None:
    text = "né à Łódź 😀 ann@x.io et 中文 bob@y.io"
    assert [text[f.start : f.end] for f in Detector(["EMAIL"]).detect(text)] == ["ann@x.io", "bob@y.io"]


def test_a_lone_surrogate_is_survived() -> None:
    text = "\ud800 ann@x.io"
    found = Detector(["EMAIL"]).detect(text)
    assert [text[f.start : f.end] for f in found] == ["ann@x.io"]


def test_offsets_are_those_of_the_value_under_a_key() -> None:
    assert Detector(["EMAIL"]).detect("é ann@x.io", "contactMail") == [Found(2, 10, "EMAIL", CHECKSUM)]


def test_only_enabled_types_are_found() -> None:
    text = "ann@x.io 4111 1111 1111 1111"
    assert [f.type for f in Detector(["CREDIT_CARD"]).detect(text)] == ["CREDIT_CARD"]


def test_date_is_off_unless_named() -> None:
    assert Detector().detect("on 2024-05-06") == []
    assert [f.type for f in Detector(["DATE"]).detect("on 2024-05-06")] == ["DATE"]


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown entity type EMIAL"):
        Detector(["EMIAL"])


def test_no_types_find_nothing() -> None:
    assert Detector([]).detect("ann@x.io") == []


def test_rank_wins_over_length_and_length_over_place() -> None:
    assert resolve([Found(0, 20, "A", BARE), Found(5, 10, "B", CHECKSUM)]) == [Found(5, 10, "B", CHECKSUM)]
    assert resolve([Found(0, 5, "A", BARE), Found(2, 12, "B", BARE)]) == [Found(2, 12, "B", BARE)]


def test_what_a_winner_leaves_uncovered_of_a_loser_is_kept() -> None:
    assert resolve([Found(0, 20, "A", CONTEXT), Found(5, 10, "B", CHECKSUM)]) == [
        Found(0, 5, "A", CONTEXT),
        Found(5, 10, "B", CHECKSUM),
        Found(10, 20, "A", CONTEXT),
    ]


spans = st.builds(
    lambda start, size, kind, rank: Found(start, start + size, kind, rank),
    st.integers(0, 60), st.integers(1, 20), st.sampled_from("ABC"), st.integers(1, 4),
)  # fmt: skip


@given(st.lists(spans, max_size=12))
def test_resolved_spans_never_overlap_and_the_best_survives(found: list[Found]) -> None:
    kept = resolve(list(found))
    assert all(a.end <= b.start for a, b in pairwise(kept))
    if found:
        best = max(f.rank for f in found)
        assert any(f.rank == best for f in kept)


ALPHABET = st.sampled_from(
    [
        *"aB1 9.@-:/+(_)=\n\"'x0é中<>{}[]eyJskMr|,;#",
        "password",
        "4111",
        "dob",
        "http://",
        "::",
        "phone ",
        "1234567",
        "\0",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ALPHABET, max_size=60))
def test_any_text_gives_spans_inside_it(detector: Detector, parts: list[str]) -> None:
    text = "".join(parts)
    found = detector.detect(text)
    assert all(0 <= f.start < f.end <= len(text) for f in found)
    assert all(a.end <= b.start for a, b in pairwise(found))


@settings(max_examples=150, deadline=None)
@given(st.lists(ALPHABET, max_size=60))
def test_every_candidate_starts_with_a_declared_byte(parts: list[str]) -> None:
    import re

    data = "".join(parts).encode()
    for recognizer in enabled(frozenset(ENTITY_TYPES)):
        for match in re.finditer(recognizer.pattern, data):
            assert data[match.start()] in recognizer.starts, (recognizer.name, match[0])


@settings(max_examples=150, deadline=None)
@given(st.lists(ALPHABET, max_size=60))
def test_what_tells_recognizers_apart_reads_as_their_patterns_do(parts: list[str]) -> None:
    import re

    data = "".join(parts).encode()
    for recognizer in enabled(frozenset(ENTITY_TYPES)):
        for match in re.finditer(recognizer.pattern, data):
            assert re.compile(recognizer.selecting(data[match.start()])).match(data, match.start()), recognizer.name


texts = st.lists(st.lists(ALPHABET, max_size=12).map("".join), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(texts)
def test_texts_said_to_be_clean_hold_nothing(detector: Detector, some: list[str]) -> None:
    count = detector.clean(some)
    assert all(detector.detect(text) == [] for text in some[:count])


def test_a_conversation_is_clean_up_to_its_first_candidate() -> None:
    detector = Detector(["EMAIL", "PHONE"])
    assert detector.clean(["all", "is", "well"]) == 3
    assert detector.clean(["all", "is", "ann@x.io", "well"]) == 2
    assert detector.clean(["all", "5551234567"]) == 1  # one number and nothing else is a telephone number
    assert detector.clean(["a\0b", "\0", "ann@x.io"]) == 0
    assert Detector(["EMAIL", "NOTE"], custom=[CustomEntity("NOTE", "well")]).clean(["all"]) == 0


@pytest.mark.parametrize("name", HOSTILE)
def test_every_candidate_has_a_judge(detector: Detector, name: str) -> None:
    """What RE2 finds, `re` must tell apart at that place: a candidate without a judge would slip by."""
    data = (HOSTILE[name] * 40).encode()
    find = detector._find
    assert find is not None
    at = 0
    while True:
        start, end = find(UNANCHORED, data, at, len(data))[0]
        if start < 0:
            return
        match, _ = detector._row(data[start])
        assert match is None or match(data, start) is not None, data[start:end]
        at = max(end, start + 1)


def test_many_overlaps_are_settled_in_linear_time_and_leave_nothing_uncovered() -> None:
    chain = [Found(i, i + 20, "A", CONTEXT) for i in range(0, 20_000, 5)]
    kept = resolve(list(chain))
    assert all(a.end <= b.start for a, b in pairwise(kept))
    covered = {i for one in kept for i in range(one.start, one.end)}
    assert len(covered) > 0.9 * chain[-1].end
