"""The examples of RFC 5545, 3.8.5.3 that repeat by days or more, with the dates that the text lists for each."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from src.database.calendar import Series, check_rrule
from tests.database.calendar.random_rules import series
from tests.database.calendar.rfc5545 import occurrences

NEW_YORK = ZoneInfo("America/New_York")
TEN_DAYS = "1997 9/2 9/3 9/4 9/5 9/6 9/7 9/8 9/9 9/10 9/11"
JANUARIES = " ".join(f"{year} " + " ".join(f"1/{day}" for day in range(1, 32)) for year in (1998, 1999, 2000))
TUESDAYS = "1997 9/2 9/9 9/16 9/23 9/30 10/7 10/14 10/21 10/28 11/4"
TUESDAYS_AND_THURSDAYS = "1997 9/2 9/4 9/9 9/11 9/16 9/18 9/23 9/25 9/30 10/2"
EVERY_OTHER_WEEK = (
    "1997 9/1 9/3 9/5 9/15 9/17 9/19 9/29 10/1 10/3 10/13 10/15 10/17 10/27 10/29 10/31 11/10 11/12 11/14 11/24"
    " 11/26 11/28 12/8 12/10 12/12 12/22"
)
EXAMPLES = [
    # rule, start, the dates listed, "..." where the text goes on
    ("FREQ=DAILY;COUNT=10", "1997-09-02", TEN_DAYS),
    ("FREQ=DAILY;UNTIL=19971224T000000Z", "1997-09-02", f"{TEN_DAYS} ..."),
    ("FREQ=DAILY;INTERVAL=2", "1997-09-02", "1997 9/2 9/4 9/6 9/8 ..."),
    ("FREQ=DAILY;INTERVAL=10;COUNT=5", "1997-09-02", "1997 9/2 9/12 9/22 10/2 10/12"),
    ("FREQ=YEARLY;UNTIL=20000131T140000Z;BYMONTH=1;BYDAY=SU,MO,TU,WE,TH,FR,SA", "1998-01-01", JANUARIES),
    ("FREQ=DAILY;UNTIL=20000131T140000Z;BYMONTH=1", "1998-01-01", JANUARIES),
    ("FREQ=WEEKLY;COUNT=10", "1997-09-02", TUESDAYS),
    ("FREQ=WEEKLY;UNTIL=19971224T000000Z", "1997-09-02", f"{TUESDAYS} 11/11 11/18 11/25 12/2 12/9 12/16 12/23"),
    (
        "FREQ=WEEKLY;INTERVAL=2;WKST=SU",
        "1997-09-02",
        "1997 9/2 9/16 9/30 10/14 10/28 11/11 11/25 12/9 12/23 1998 1/6 ...",
    ),
    ("FREQ=WEEKLY;UNTIL=19971007T000000Z;WKST=SU;BYDAY=TU,TH", "1997-09-02", TUESDAYS_AND_THURSDAYS),
    ("FREQ=WEEKLY;COUNT=10;WKST=SU;BYDAY=TU,TH", "1997-09-02", TUESDAYS_AND_THURSDAYS),
    (
        "FREQ=WEEKLY;INTERVAL=2;UNTIL=19971224T000000Z;WKST=SU;BYDAY=MO,WE,FR",
        "1997-09-01",
        EVERY_OTHER_WEEK,
    ),
    (
        "FREQ=WEEKLY;INTERVAL=2;COUNT=8;WKST=SU;BYDAY=TU,TH",
        "1997-09-02",
        "1997 9/2 9/4 9/16 9/18 9/30 10/2 10/14 10/16",
    ),
    ("FREQ=MONTHLY;COUNT=10;BYDAY=1FR", "1997-09-05", "1997 9/5 10/3 11/7 12/5 1998 1/2 2/6 3/6 4/3 5/1 6/5"),
    ("FREQ=MONTHLY;UNTIL=19971224T000000Z;BYDAY=1FR", "1997-09-05", "1997 9/5 10/3 11/7 12/5"),
    (
        "FREQ=MONTHLY;INTERVAL=2;COUNT=10;BYDAY=1SU,-1SU",
        "1997-09-07",
        "1997 9/7 9/28 11/2 11/30 1998 1/4 1/25 3/1 3/29 5/3 5/31",
    ),
    ("FREQ=MONTHLY;COUNT=6;BYDAY=-2MO", "1997-09-22", "1997 9/22 10/20 11/17 12/22 1998 1/19 2/16"),
    ("FREQ=MONTHLY;BYMONTHDAY=-3", "1997-09-28", "1997 9/28 10/29 11/28 12/29 1998 1/29 2/26 ..."),
    (
        "FREQ=MONTHLY;COUNT=10;BYMONTHDAY=2,15",
        "1997-09-02",
        "1997 9/2 9/15 10/2 10/15 11/2 11/15 12/2 12/15 1998 1/2 1/15",
    ),
    (
        "FREQ=MONTHLY;COUNT=10;BYMONTHDAY=1,-1",
        "1997-09-30",
        "1997 9/30 10/1 10/31 11/1 11/30 12/1 12/31 1998 1/1 1/31 2/1",
    ),
    (
        "FREQ=MONTHLY;INTERVAL=18;COUNT=10;BYMONTHDAY=10,11,12,13,14,15",
        "1997-09-10",
        "1997 9/10 9/11 9/12 9/13 9/14 9/15 1999 3/10 3/11 3/12 3/13",
    ),
    (
        "FREQ=MONTHLY;INTERVAL=2;BYDAY=TU",
        "1997-09-02",
        "1997 9/2 9/9 9/16 9/23 9/30 11/4 11/11 11/18 11/25 1998 1/6 1/13 1/20 1/27 3/3 3/10 3/17 3/24 3/31 ...",
    ),
    ("FREQ=YEARLY;COUNT=10;BYMONTH=6,7", "1997-06-10", " ".join(f"{year} 6/10 7/10" for year in range(1997, 2002))),
    (
        "FREQ=YEARLY;INTERVAL=2;COUNT=10;BYMONTH=1,2,3",
        "1997-03-10",
        "1997 3/10 1999 1/10 2/10 3/10 2001 1/10 2/10 3/10 2003 1/10 2/10 3/10",
    ),
    (
        "FREQ=YEARLY;INTERVAL=3;COUNT=10;BYYEARDAY=1,100,200",
        "1997-01-01",
        "1997 1/1 4/10 7/19 2000 1/1 4/9 7/18 2003 1/1 4/10 7/19 2006 1/1",
    ),
    ("FREQ=YEARLY;BYDAY=20MO", "1997-05-19", "1997 5/19 1998 5/18 1999 5/17 ..."),
    ("FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO", "1997-05-12", "1997 5/12 1998 5/11 1999 5/17 ..."),
    (
        "FREQ=YEARLY;BYMONTH=3;BYDAY=TH",
        "1997-03-13",
        "1997 3/13 3/20 3/27 1998 3/5 3/12 3/19 3/26 1999 3/4 3/11 3/18 3/25 ...",
    ),
    ("FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13", "1998-02-13", "1998 2/13 3/13 11/13 1999 8/13 2000 10/13 ..."),
    (
        "FREQ=MONTHLY;BYDAY=SA;BYMONTHDAY=7,8,9,10,11,12,13",
        "1997-09-13",
        "1997 9/13 10/11 11/8 12/13 1998 1/10 2/7 3/7 4/11 5/9 6/13 ...",
    ),
    (
        "FREQ=YEARLY;INTERVAL=4;BYMONTH=11;BYDAY=TU;BYMONTHDAY=2,3,4,5,6,7,8",
        "1996-11-05",
        "1996 11/5 2000 11/7 2004 11/2 ...",
    ),
    ("FREQ=MONTHLY;COUNT=3;BYDAY=TU,WE,TH;BYSETPOS=3", "1997-09-04", "1997 9/4 10/7 11/6"),
    (
        "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-2",
        "1997-09-29",
        "1997 9/29 10/30 11/27 12/30 1998 1/29 2/26 3/30 ...",
    ),
    ("FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO", "1997-08-05", "1997 8/5 8/10 8/19 8/24"),
    ("FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU", "1997-08-05", "1997 8/5 8/17 8/19 8/31"),
    ("FREQ=MONTHLY;BYMONTHDAY=15,30;COUNT=5", "2007-01-15", "2007 1/15 1/30 2/15 3/15 3/30"),
]


@pytest.mark.parametrize(("rule", "first", "listed"), EXAMPLES)
def test_an_example_of_the_rfc_has_the_dates_that_it_lists(rule: str, first: str, listed: str) -> None:
    start = datetime.fromisoformat(f"{first}T09:00")
    event = series(start, NEW_YORK, rule)
    window = event.start_datetime, event.start_datetime.replace(year=start.year + 10)
    expected = dates(listed)

    check_rrule(rule, all_day=False)
    for found in ([slot.start for slot in Series(event).between(*window)], occurrences(rule, start, NEW_YORK, window)):
        formatted = [f"{one.astimezone(NEW_YORK):%Y-%m-%d %H}" for one in found]
        assert (formatted[: len(expected)] if listed.endswith("...") else formatted) == expected


def dates(listed: str) -> list[str]:
    """Read `1997 9/2 9/3 1998 1/2` as dates at nine o'clock."""
    found, year = [], ""
    for word in listed.removesuffix(" ...").split():
        if "/" not in word:
            year = word
            continue
        month, day = word.split("/")
        found.append(f"{year}-{month:>02}-{day:>02} 09")
    return found
