"""Sums, percentiles, trend, projection and comparison, from both databases; and the command over them."""

from __future__ import annotations

import argparse
import csv
import io
import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.accounting import record, reports
from proxy.accounting.histogram import bucket_of, middle_of, percentile
from proxy.accounting.journal import Journal
from proxy.accounting.ledger.sqlite import SqliteLedger
from proxy.accounting.moment import moment
from proxy.accounting.writer import Writer
from proxy.cli import costs

NOON = datetime(2026, 5, 15, 12, tzinfo=UTC).timestamp()


def ms(moment):
    return int(moment * 1000)


@pytest.fixture
async def filled(journal, ledger, call):
    """Calls of a few days before NOON, in the ledger."""
    for day in range(10):
        for number in range(4):
            call(
                journal,
                at=ms(NOON - day * 86_400 + number),
                cost=(number + 1) * 10**9,
                model=("big", "small")[number % 2],
                tags=f"env=e{number},team=t{number % 2}",
            )
    call(journal, at=ms(NOON), flags=record.CACHED, attempts=0, cost=0, saved=5 * 10**9, usage=(), model="big")
    call(journal, at=ms(NOON), outcome="refused", status=429, attempts=0, cost=0, usage=(), model="big")
    await journal.flushed()
    writer = Writer(journal, ledger, gather=0.01)
    writer.start()
    await writer.caught_up()
    await writer.close()
    return ledger


async def test_sums_by_model_have_the_fixed_names(filled):
    rows = await reports.summarize(filled, NOON - 100, NOON + 100, ("model",))
    assert [list(row)[:8] for row in rows] == [
        ["model", "calls", "cached_calls", "refused", "input_tokens", "output_tokens", "cost_usd", "saved_usd"]
    ] * 2
    assert [tuple(row.values())[:8] for row in rows] == [
        ("small", 2, 0, 0, 200, 40, 6.0, 0.0),
        ("big", 3, 1, 1, 200, 40, 4.0, 5.0),
    ]


@pytest.mark.parametrize(
    "report",
    [
        lambda ledger: reports.summarize(ledger, NOON - 100, NOON + 1),  # single calls
        lambda ledger: reports.summarize(ledger, NOON - 9 * 86_400, NOON + 1, ("model",), percentiles=(0.5,)),  # days
        lambda ledger: reports.summarize(ledger, NOON - 9 * 86_400, NOON + 1, ("day", "tag:team")),
        lambda ledger: reports.summarize(ledger, NOON - 9 * 86_400, NOON + 1, ("hour",)),
        lambda ledger: reports.changes(ledger, NOON - 100, NOON + 1, ("model",)),
    ],
)
async def test_every_figure_is_a_number_that_json_has(filled, report):
    rows = await report(filled)
    assert rows
    assert {type(value) for row in rows for value in row.values()} <= {int, float, str, type(None)}
    assert json.loads(costs._as_json(rows)) == rows


async def test_by_a_tag(filled):
    rows = await reports.summarize(filled, NOON - 100, NOON + 100, ("tag:team",))
    assert {row["tag:team"]: row["cost_usd"] for row in rows} == {"t0": 4.0, "t1": 6.0, "-": 0.0}


async def test_by_day_in_a_time_zone(filled):
    rows = await reports.summarize(
        filled, NOON - 3 * 86_400 - 100, NOON + 100, ("day",), time_zone=ZoneInfo("Pacific/Auckland")
    )
    assert [row["day"] for row in rows] == ["2026-05-13", "2026-05-14", "2026-05-15", "2026-05-16"]
    assert {row["cost_usd"] for row in rows} == {10.0}


async def test_by_hour(filled):
    [row] = await reports.summarize(filled, NOON, NOON + 3600, ("hour",))
    assert (row["hour"], row["cost_usd"]) == ("2026-05-15T12:00+0000", 10.0)


async def test_only_what_matches(filled):
    [row] = await reports.summarize(filled, NOON - 100, NOON + 100, (), where={"model": "small"})
    assert row["cost_usd"] == 6.0


TAG = st.text(st.sampled_from("ab=, "), min_size=1, max_size=5)


@given(st.dictionaries(TAG, TAG, max_size=3))
def test_the_text_of_tags_is_split_at_commas_and_there_at_the_first_equals_sign(tags):
    wanted = [
        (name.replace(",", " ").replace("=", " "), value.replace(",", " ")) for name, value in sorted(tags.items())
    ]
    text = record.canonical_tags(tags)
    assert [tuple(part.split("=", 1)) for part in text.split(",") if part] == wanted


async def test_percentiles_of_the_cost_of_a_call(filled):
    [row] = await reports.summarize(filled, NOON - 86_400, NOON + 100, (), percentiles=(0.5, 0.99))
    assert row["cost_p50_usd"] == pytest.approx(2, rel=0.07)
    assert row["cost_p99_usd"] == pytest.approx(4, rel=0.07)


async def test_an_unknown_dimension_names_those_there_are(filled):
    with pytest.raises(ValueError, match=r"planet.*model, model_asked, project"):
        await reports.summarize(filled, 0, 1, ("planet",))
    with pytest.raises(ValueError, match="no dimension"):
        await reports.summarize(filled, 0, 1, (), where={"1=1; DROP TABLE calls; --": "x"})


async def test_projection_of_an_even_month_is_even(filled):
    projection = await reports.project_month(filled, NOON + 60)
    assert projection.month == "2026-05"
    assert projection.spent_usd == 100.0
    assert projection.days_left == pytest.approx(16.5, abs=0.001)
    assert projection.projected_usd == pytest.approx(100 + 16.5 * 10, abs=0.01)
    assert projection.error_usd == 0.0
    assert "weekdays and weekends apart" in projection.method


async def test_projection_without_history_projects_nothing(ledger):
    projection = await reports.project_month(ledger, NOON)
    assert (projection.spent_usd, projection.projected_usd) == (0.0, 0.0)
    assert projection.method.startswith("no whole day")


async def test_trend_is_the_slope_of_the_days(journal, ledger, call):
    for day in range(1, 11):
        call(journal, at=ms(NOON - day * 86_400), cost=(20 - day) * 10**9)
    await journal.flushed()
    writer = Writer(journal, ledger, gather=0.01)
    writer.start()
    await writer.caught_up()
    await writer.close()
    line = await reports.trend(ledger, NOON, days=10)
    assert line["change_usd"] == pytest.approx(1.0)
    assert line["mean_usd"] == pytest.approx(14.5)


async def test_what_changed_against_the_period_before(filled, journal, call):
    rows = await reports.changes(filled, NOON - 100, NOON + 86_300, ("model",))
    assert {row["model"]: (row["cost_usd"], row["cost_before_usd"]) for row in rows} == {
        "small": (6.0, 6.0),
        "big": (4.0, 4.0),
    }


@given(st.integers(1, 10**15))
def test_a_bucket_is_within_seven_percent(nano):
    assert middle_of(bucket_of(nano)) == pytest.approx(nano, rel=0.0626, abs=0.5)


@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=200), st.floats(0.01, 1))
def test_percentiles_follow_the_nearest_rank(values, share):
    counts = {}
    for value in values:
        counts[bucket_of(value)] = counts.get(bucket_of(value), 0) + 1
    rank = max(1, -(-int(share * len(values) * 1_000_000) // 1_000_000))
    exact = sorted(values)[rank - 1]
    assert percentile(counts.items(), share) == pytest.approx(exact, rel=0.0626, abs=0.5)


def test_no_calls_have_no_percentile():
    assert percentile([], 0.5) == 0


# --- the command


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser()
    costs.add_parser(parser.add_subparsers())
    return lambda *words: parser.parse_args(["costs", *words])


@pytest.fixture
async def recent(tmp_path, call):
    """A SQLite ledger with calls of the last hour; its URL."""
    journal = Journal(tmp_path / "j")
    journal.open()
    ledger = SqliteLedger(tmp_path / "ledger.db")
    call(journal, cost=2 * 10**9, model="big", project="red")
    call(journal, cost=3_456_000, model="small", project="blue")
    call(journal, flags=record.UNPRICED, cost=0, model="mine", project="blue")
    call(journal, flags=record.UNPRICED, cost=0, model="ours", project="blue")
    call(journal, flags=record.UNPRICED, cost=0, model="ours", project="green")
    await journal.flushed()
    writer = Writer(journal, ledger, gather=0.01)
    writer.start()
    await writer.caught_up()
    await journal.close()
    await writer.close()
    await ledger.close()
    return f"sqlite://{tmp_path / 'ledger.db'}"


def run(parse, *words):
    import threading

    found = []
    thread = threading.Thread(target=lambda: found.append(costs.run(parse(*words))))  # run() has a loop of its own
    thread.start()
    thread.join()
    return found[0]


async def test_json_is_a_list_of_objects_with_exactly_the_fixed_names(recent, parse, capsys):
    assert run(parse, "--ledger", recent, "--by", "model,project", "--format", "json") == 0
    out, _ = capsys.readouterr()
    rows = json.loads(out)
    assert list(rows[0]) == [
        "model",
        "project",
        "calls",
        "cached_calls",
        "refused",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "saved_usd",
    ]
    assert [(row["model"], row["cost_usd"]) for row in rows[:3]] == [("big", 2.0), ("small", 0.003456), ("mine", 0.0)]


async def test_an_object_with_unpriced_calls_has_their_number_beside_the_fixed_names(recent, parse, capsys):
    assert run(parse, "--ledger", recent, "--by", "model", "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["model"]: row.get("unpriced") for row in rows} == {"big": None, "small": None, "mine": 1, "ours": 2}


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--by", "project"),
        ("--format", "json"),
        ("--format", "csv"),
        ("--details",),
        ("--compare",),
        ("--compare", "--by", "model", "--format", "json"),
        ("--forecast",),
    ],
)
async def test_every_report_says_how_many_calls_have_no_known_price_and_for_which_models(recent, parse, capsys, words):
    assert run(parse, "--ledger", recent, *words) == 0
    out, err = capsys.readouterr()
    assert "3 calls have no known price" in err
    assert "ours (2), mine (1)" in err
    assert "unpriced" in out


async def test_the_table_has_a_column_for_unpriced_calls_where_there_are_any(recent, parse, capsys):
    assert run(parse, "--ledger", recent, "--by", "project") == 0
    names, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {line[0]: line[names.index("unpriced")] for line in lines} == {"red": "0", "blue": "2", "green": "1"}


async def test_nothing_is_said_of_a_time_without_such_calls(recent, parse, capsys):
    assert run(parse, "--ledger", recent, "--until", "1h", "--since", "2h") == 0
    out, err = capsys.readouterr()
    assert "price" not in err
    assert "unpriced" not in out


async def test_csv_has_plain_decimals(recent, parse, capsys):
    assert run(parse, "--ledger", recent, "--by", "model", "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["cost_usd"] for row in rows] == ["2", "0.003456", "0", "0"]


async def test_the_table_is_aligned(recent, parse, capsys):
    assert run(parse, "--ledger", recent, "--by", "model") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["model", "calls"]
    assert len({line.index(" ") > 0 for line in lines}) == 1


async def test_forecast_and_comparison_run(recent, parse, capsys):
    assert run(parse, "--ledger", recent, "--forecast", "--format", "json") == 0
    assert "projected_usd" in json.loads(capsys.readouterr().out)[0]
    assert run(parse, "--ledger", recent, "--compare", "--by", "model", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)[0]["change_usd"] == 2.0


async def test_a_ledger_of_elsewhere_is_not_compared_with_the_journal_of_this_machine(
    recent, parse, capsys, monkeypatch, tmp_path, call
):
    monkeypatch.setenv("HOME", str(tmp_path))
    journal = Journal(tmp_path / ".local/share/llm-sidecar/journal")
    journal.open()
    call(journal)  # which no ledger has
    await journal.flushed()
    try:
        assert run(parse, "--ledger", recent) == 0
    finally:
        await journal.close()
    assert "missing" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--by", "planet"), "no such dimension"),
        (("--since", "yesterday"), "is no time"),
        (("--since", "1h", "--until", "2h"), "not before"),
        (("--time-zone", "Mars/Olympus"), "IANA"),
        (("prize", "gpt-4o"), "the only further command"),
    ],
)
async def test_wrong_arguments_are_2_with_a_reason(recent, parse, capsys, words, message):
    assert run(parse, *words, "--ledger", recent) == 2
    assert message in capsys.readouterr().err


async def test_no_ledger_yet_is_an_empty_report(tmp_path, parse, capsys):
    assert run(parse, "--ledger", f"sqlite://{tmp_path / 'none.db'}", "--format", "json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == []
    assert "no ledger" in err
    assert not (tmp_path / "none.db").exists()


async def test_a_database_that_does_not_answer_is_1(parse, capsys):
    assert run(parse, "--ledger", "postgresql://nobody@127.0.0.1:9/none") == 1
    assert "cannot be read" in capsys.readouterr().err


def test_costs_price_explains_a_price_and_its_source(parse, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert costs.run(parse("price", "gpt-4o-mini")) == 0
    out = capsys.readouterr().out
    assert "openai/gpt-4o-mini" in out
    assert "input 0.15" in out
    assert costs.run(parse("price", "mine", "--format", "json")) == 1
    assert json.loads(capsys.readouterr().out)["priced"] is False


def test_dates_and_moments_are_understood():
    now = datetime.now(UTC).timestamp()
    assert datetime.fromtimestamp(moment("2026-05-01", ZoneInfo("Europe/Berlin"), now), UTC) == datetime(
        2026, 4, 30, 22, tzinfo=UTC
    )
    assert moment("2026-05-01T08:00+01:00", UTC, now) == datetime(2026, 5, 1, 7, tzinfo=UTC).timestamp()
    assert 0 <= now - timedelta(days=7).total_seconds() - moment("7d", UTC, now) < 3_600


async def test_the_table_shows_a_small_cost_as_what_it_is(recent, parse, capsys):
    assert run(parse, "--ledger", recent, "--by", "model") == 0
    small = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("small"))
    assert "0.003456" in small
