"""WQL: what is read, what is refused, which instances are meant."""

from datetime import UTC, datetime, timedelta

import pytest

from vmkeep_lab.cim import V2, WBEM_E_INVALID_QUERY, Instance, WmiError
from vmkeep_lab.schema import Schema
from vmkeep_lab.wire import wql

pytestmark = pytest.mark.quick

KIND = Schema.load("server2019").find(V2, "Msvm_ConcreteJob")
JOB = Instance(
    "Msvm_ConcreteJob",
    {
        "InstanceID": r"Microsoft:A\B",
        "ElementName": "it's",
        "Name": "backup_1",
        "JobState": 7,
        "DeleteOnCompletion": True,
        "StartTime": datetime(2026, 10, 8, 12, 0, tzinfo=UTC),
        "ElapsedTime": timedelta(minutes=5),
        "OperationalStatus": [2, 3],
    },
)


def meant(where: str) -> bool:
    query = wql.read(f"SELECT * FROM Msvm_ConcreteJob WHERE {where}")
    assert isinstance(query, wql.Select)
    wql.check(query.condition, KIND)
    return wql.holds(query.condition, KIND, JOB)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (r"InstanceID = 'microsoft:a\\b'", True),  # strings compare without case
        (r"InstanceID = 'Microsoft:A\B'", False),  # a single backslash escapes what follows
        ('ElementName = "it\'s"', True),
        (r"ElementName = 'it\'s'", True),
        ("JobState = 7", True),
        ("JobState = '7'", True),
        ("7 = JobState", True),
        ("6 < JobState", True),
        ("JobState <> 7", False),
        ("JobState != 8", True),
        ("JobState >= 7 AND JobState <= 7", True),
        ("JobState > 7 OR JobState < 7", False),
        ("JobState = 0x7", True),
        ("DeleteOnCompletion = TRUE", True),
        ("DeleteOnCompletion = 'false'", False),
        ("Caption IS NULL", True),
        ("Caption = NULL", True),
        ("Name IS NOT NULL", True),
        ("Caption = 'x'", False),
        ("Caption <> 'x'", False),  # null compares with nothing
        ("NOT JobState = 8", True),
        ("NOT (JobState = 7 OR JobState = 8)", False),
        ("JobState = 8 OR JobState = 7 AND Name = 'no'", False),  # AND binds first
        ("(JobState = 8 OR JobState = 7) AND Name LIKE 'backup%'", True),
        ("Name LIKE 'backup[_]_'", True),
        ("Name LIKE 'backup__'", True),
        ("Name LIKE '%[0-4]'", True),
        ("Name LIKE '%[^0-4]'", False),
        ("Name LIKE 'BACK%1'", True),
        ("NOT Name LIKE '%2'", True),
        ("Name NOT LIKE '%2'", True),
        ("Name LIKE 'backup.1'", False),
        ("StartTime < '20261008130000.000000+000'", True),
        ("StartTime = '20261008140000.000000+120'", True),  # the offset counts
        ("ElapsedTime > '00000000000400.000000:000'", True),
        ("__CLASS = 'msvm_concretejob'", True),
        ("__CLASS ISA 'CIM_Job'", True),
        ("OperationalStatus IS NOT NULL", True),
    ],
)
def test_conditions(where: str, expected: bool) -> None:
    assert meant(where) is expected


@pytest.mark.parametrize(
    "query",
    [
        "",
        "SELECT",
        "SELECT * FROM",
        "SELECT * FROM A WHERE",
        "SELECT * FROM A WHERE b",
        "SELECT * FROM A WHERE b =",
        "SELECT * FROM A WHERE b = c",
        "SELECT * FROM A WHERE (b = 1",
        "SELECT * FROM A WHERE b = 'x",
        "SELECT * FROM A; DROP B",
        "SELECT a, FROM A",
        "DELETE FROM A",
        "ASSOCIATORS OF A.b='c'",
        'ASSOCIATORS OF {A.b="c"} WHERE Wrong = 1',
        'ASSOCIATORS OF {A.b="c"} WHERE AssocClass',
        "SELECT * FROM A WHERE " + "(" * 500 + "b = 1" + ")" * 500,
        "SELECT * FROM A WHERE b = '" + "x" * 20_000 + "'",
    ],
)
def test_what_is_no_query_is_refused(query: str) -> None:
    with pytest.raises(WmiError) as refused:
        wql.read(query)
    assert refused.value.code == WBEM_E_INVALID_QUERY


@pytest.mark.parametrize(
    "where",
    [
        "Nothing = 1",
        "OperationalStatus = 2",
        "JobState = 'seven'",
        "StartTime = 'yesterday'",
        "StartTime > '00000000000400.000000:000'",
        "DeleteOnCompletion = 'perhaps'",
        "Name ISA 'CIM_Job'",
    ],
)
def test_what_does_not_compare_is_refused(where: str) -> None:
    with pytest.raises(WmiError) as refused:
        meant(where)
    assert refused.value.code == WBEM_E_INVALID_QUERY


def test_projections_and_association_queries() -> None:
    assert wql.read("select a , B from C") == wql.Select("C", ("a", "B"))
    found = wql.read(
        r'associators of {\\H\root\virtualization\v2:A.b="c } d",E="f"} where AssocClass = X ResultRole=y'
    )
    assert found == wql.About(
        r'\\H\root\virtualization\v2:A.b="c } d",E="f"', False, {"assocclass": "X", "resultrole": "y"}
    )
    assert wql.read("REFERENCES OF {A.b=1}") == wql.About("A.b=1", references=True)
