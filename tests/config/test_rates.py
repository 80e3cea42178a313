"""Rates and tables of rates as an operator writes them."""

import pickle
import subprocess
import sys

import pytest

from config.rates import MAX_ENTRIES, Rates, RateTable


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("50/second", [(50, 1)]),
        ("50/second; 1000/minute", [(50, 1), (1000, 60)]),
        ("1 per hour, 10 PER 2 days;", [(1, 3600), (10, 172_800)]),
        (" 5/10seconds ,,", [(5, 10)]),
        ("007/05 minutes", [(7, 300)]),
        ("1/second;2/minute;3/hour;4/day", [(1, 1), (2, 60), (3, 3600), (4, 86_400)]),
        ("", []),
        (" ; ", []),
    ],
)
def test_rates__written__limit_what_they_say(text: str, windows: list[tuple[int, float]]) -> None:
    """Amounts over windows, with either separator; an empty text limits nobody."""
    rates = Rates(text)
    assert list(rates.problems()) == []
    assert list(rates.windows) == windows
    assert [(item.amount, item.get_expiry()) for item in rates.items] == windows
    assert bool(rates) is bool(windows)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("50/second; many", '"many" is no rate such as 50/second'),
        ("50/sec", '"50/sec" is no rate such as 50/second'),
        ("-1/second", '"-1/second" is no rate such as 50/second'),
        ("1.5/second", '"1.5/second" is no rate such as 50/second'),
        ("1/second|2/minute", '"1/second|2/minute" is no rate such as 50/second'),
        ("5/0 minutes", '"5/0 minutes" is no rate such as 50/second'),
        ("5 per 00hour", '"5 per 00hour" is no rate such as 50/second'),
        ("9" * 5000 + "/second", f'"{"9" * 40}" is no rate such as 50/second'),
        ("0/second", '"0/second" lets nobody in; for no limit, leave it empty'),
        ("1/second; 60/minute; 99/60 seconds", '"99/60 seconds" is over the same time as "60/minute"'),
        ("1/second; 1/second", '"1/second" is over the same time as "1/second"'),
        ("1/second,1/minute,1/hour,1/day,1/month", "has 5 rates, of which 4 are the most"),
    ],
)
def test_rates__anything_wrong__is_a_problem_and_limits_nobody(text: str, problem: str) -> None:
    """A slip of the pen is told, and never leaves half of the rates in force."""
    rates = Rates(text)
    assert list(rates.problems()) == [problem]
    assert rates.items == rates.windows == ()
    assert not rates


def test_rates__several_slips__are_all_told() -> None:
    """Everything that is wrong is told at once."""
    assert len(list(Rates("0/second; x, 1/minute, 2/minute").problems())) == 3


def test_rates__compared_and_shown__are_their_text() -> None:
    """Two are the same when they are written the same, also in another process."""
    rates = Rates("50/second")
    assert rates == Rates("50/second")
    assert rates != Rates("50 per second")
    assert rates != "50/second"
    assert hash(rates) == hash(Rates("50/second"))
    assert (str(rates), repr(rates)) == ("50/second", "Rates('50/second')")
    assert rates.windows
    assert pickle.loads(pickle.dumps(rates)) == rates


def test_rates__imported__bring_no_storages() -> None:
    """Importing the settings stays quick: the grammar and all that comes with it wait for the first rate."""
    code = "import sys; import config.rates; print('limits' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_rate_table__table_or_json__are_the_same() -> None:
    """A TOML table and the JSON object in a variable say the same."""
    table = RateTable({"phc_one": "5/second", "phc_two": ""})
    same = RateTable('{"phc_two": "", "phc_one": "5/second"}')
    assert table == same
    assert hash(table) == hash(same)
    assert table != RateTable({"phc_one": "6/second", "phc_two": ""})
    assert table != {"phc_one": "5/second", "phc_two": ""}
    assert table.get("phc_one") == Rates("5/second")
    assert table.get("phc_two") == Rates("")
    assert table.get("phc_three") is None
    assert (len(table), list(table), bool(table)) == (2, ["phc_one", "phc_two"], True)
    assert str(table) == '{"phc_one":"5/second","phc_two":""}'
    assert RateTable(str(table)) == table
    assert pickle.loads(pickle.dumps(table)) == table
    assert list(table.problems()) == []


def test_rate_table__empty__holds_nothing() -> None:
    """No entries is a table too."""
    assert not RateTable({})
    assert RateTable("{}") == RateTable({})
    assert repr(RateTable({})) == "<RateTable 0 entries>"


@pytest.mark.parametrize("value", [5, None, ["1/second"], {"name": 5}, {5: "1/second"}])
def test_rate_table__another_type__is_refused(value: object) -> None:
    """Only a table of texts is one."""
    with pytest.raises(TypeError):
        RateTable(value)


@pytest.mark.parametrize("text", ["", "1/second", "[]", '{"name": 5}', '{"name": "1/second"'])
def test_rate_table__text_that_is_no_object_of_texts__is_refused(text: str) -> None:
    """A variable holds the whole table or nothing of it."""
    with pytest.raises(ValueError, match=r"."):
        RateTable(text)


def test_rate_table__entry_with_a_problem__is_named_by_its_end() -> None:
    """The entry can be found, and a log does not give a token away."""
    table = RateTable({"phc_secret_1234": "often", "12345678": "0/hour"})
    assert list(table.problems()) == [
        'entry "...1234": "often" is no rate such as 50/second',
        'entry "12345678": "0/hour" lets nobody in; for no limit, leave it empty',
    ]


def test_rate_table__too_many_entries__is_one_problem() -> None:
    """A table that got out of hand is told in one sentence."""
    assert list(RateTable(dict.fromkeys(map(str, range(MAX_ENTRIES)), "1/day")).problems()) == []
    (problem,) = RateTable(dict.fromkeys(map(str, range(MAX_ENTRIES + 1)), "x")).problems()
    assert problem == "has 1001 entries, of which 1000 are the most"
