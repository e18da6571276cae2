"""Which files a day depends on."""

from datetime import date

import pytest

from pipelines.stages.ingest import expand_braces, source_files
from spark_jobs.settings import Source

DAY = date(2024, 1, 2)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a", ["a"]),
        ("a{b,c}", ["ab", "ac"]),
        ("{a,b}{c,d}", ["ac", "ad", "bc", "bd"]),
        ("{a,{b,c}}", ["a", "b", "c"]),
        ("{one}", ["{one}"]),
    ],
)
def test_braces(pattern, expected):
    assert sorted(set(expand_braces(pattern))) == expected


def test_patterns_dates_folders_and_side_tables(tmp_path):
    for name in (
        "dt=2024-01-02/a.csv",
        "dt=2024-01-03/b.csv",
        "users-2024-01-02.csv",
        "ads.csv",
        "more/x.csv",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    source = Source.model_validate(
        {
            "path": [f"{tmp_path}/dt={{date}}/*.csv", f"{tmp_path}/more"],
            "side_tables": [
                {"path": f"{tmp_path}/users-{{date}}.csv", "key": "u"},
                {"path": f"{tmp_path}/ads.csv", "key": "ad"},
            ],
        }
    )
    assert [p.relative_to(tmp_path).as_posix() for p in source_files(source, DAY)] == [
        "dt=2024-01-02/a.csv",
        "more/x.csv",
        "users-2024-01-02.csv",
    ]


def test_no_match_is_no_file(tmp_path):
    assert source_files(Source(path=f"{tmp_path}/*.csv"), DAY) == []
