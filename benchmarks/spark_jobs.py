"""Feature statistics and cross graph on simulated impressions, against DuckDB: `python
benchmarks/spark_jobs.py --json`.

One day of each size is written (not timed), then counted, merged and turned into statistics and a
graph of three relations (one of them multi-valued) by Spark and, right after, by DuckDB with the
same cores, memory and results (the day's own counts, sorted, among them), which are compared:
counts exactly, floats to 1e-9. DuckDB runs in an environment of its own, made once. Spark's
start-up is left out and shown: the session, and one small day through every job. Then:

    incremental_over_day_w   seconds of a day after the window is full over those of the first such
                             day (medians over repeats)
    hub_over_plain           counting a relation one of whose values is in every row, over the same
                             rows with five values

With `--warm N` one resident server does all of it, and each size is worked through N times before
it is measured: what a day costs where the server has run for days.

CPU seconds stand beside seconds: on a machine that is shared they say more. Everything is written
below `--folder` and removed.
"""

from __future__ import annotations

from pathlib import Path

import typer

if __name__ == "__main__":
    from spark_command import main

    typer.run(main)
else:
    # A benchmark's own folder comes first on its path: whoever says `import spark_jobs` there means
    # the package of this name.
    __path__ = [str(Path(__file__).resolve().parents[1] / "spark_jobs")]
