"""Stage `ingest`: the raw log of a day or an hour becomes typed, deduplicated impressions."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from features.partition import Partition, day_of
from features.redaction import redact
from pipelines.stages.stage import Context, Inputs, Metrics, Stage
from pipelines.store.artifacts import Version
from pipelines.store.digests import file_sha256
from spark_jobs.settings import Source, fill_pattern

_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


class Ingest(Stage):
    """Read the day's raw log, type and deduplicate it, put bad rows aside."""

    name = "ingest"
    artifact = "impressions"
    sections = ("source", "features")
    pool = "spark"

    def inputs(self, context: Context) -> Inputs:
        """Return nothing: the input is the source's files. A simulated source writes them first."""
        made = context.store.current(self.artifact, context.day)
        for path in changed_tables(made, table_digests(context.config.source)):
            context.report(
                f"side table {path} changed since {context.day} was ingested: another `version` in"
                " its settings has it read again"
            )
        if (settings := context.config.simulator) is not None:
            from simulator.log import is_simulated, simulate_day

            logs, day = context.store.workspace / "logs", day_of(context.day)
            if not is_simulated(settings, day, logs):
                log = simulate_day(settings, day, logs)
                context.report(f"simulated {log.rows:,} impressions in {log.seconds:.1f} s")
        return {}

    def fingerprint(self, context: Context) -> object:
        """Return name, size and modification time of each file: late data makes a new version.

        Tables without a date count by their `version`: a file that is rewritten every night would
        give past days values of after the fact.
        """
        stats = ((str(f), f.stat()) for f in source_files(context.config.source, context.day))
        return [(name, s.st_size, s.st_mtime_ns) for name, s in stats]

    def run(self, context: Context, inputs: Inputs, out: Path) -> Metrics:
        """See `spark_jobs.ingest.ingest`."""
        from spark_jobs.ingest import ingest
        from spark_jobs.session import spark_session

        config = context.config
        for table in config.source.side_tables:
            if not table.of_a_day and not table.version:
                context.report(
                    f"side table {table.path} is read with its present content: a past day may get"
                    " values that became known later. Put `{date}` in its path, or give it a"
                    " `version` in its settings if its values hold for every day."
                )
        tables = table_digests(config.source)
        with spark_session(config.spark) as spark:
            report = ingest(spark, config.source, config.features, context.day, out)
        if report.columns_not_used:
            context.report(f"columns not used: {', '.join(report.columns_not_used)}")
        return asdict(report) | ({"side_tables": tables} if tables else {})


def table_digests(source: Source) -> dict[str, str]:
    """Return a digest of the content of each local side table without a date, by its path."""
    found: dict[str, str] = {}
    for table in source.side_tables:
        if not table.of_a_day and (files := sorted(_matches(table.path))):
            digests = "".join(file_sha256(file) for file in files)
            found[redact(table.path)] = hashlib.sha256(digests.encode()).hexdigest()[:16]
    return found


def changed_tables(version: Version | None, digests: Mapping[str, str]) -> list[str]:
    """Return the side tables whose content differs from what a version was made from.

    Args:
        version: impressions, or None.
        digests: of the tables now, from `table_digests`.
    """
    read = version.metrics.get("side_tables", {}) if version else {}
    return [path for path, digest in digests.items() if read.get(path, digest) != digest]


def source_files(source: Source, partition: Partition) -> list[Path]:
    """Return the local files that a source's patterns match for a day or an hour, sorted.

    Side tables of the day are included. This needs no Spark, so a stage that is up to date does
    not start it.
    """
    # Negatives of an hour are drawn from its whole day, so they depend on all files of the day.
    read = partition if source.negatives is None else day_of(partition)
    filled = [fill_pattern(pattern, read) for pattern in source.patterns]
    tables = (table.path for table in source.side_tables if table.of_a_day)
    filled += [fill_pattern(path, partition) for path in tables]
    return sorted({file for pattern in filled for file in _matches(pattern)})


def _matches(pattern: str) -> Iterator[Path]:
    for plain in expand_braces(pattern):
        for name in glob.glob(plain, recursive=True):  # noqa: PTH207 (the pattern may be absolute)
            path = Path(name)
            yield from (p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def expand_braces(pattern: str) -> list[str]:
    """Return the patterns that a pattern with alternatives stands for.

    >>> expand_braces("a{b,c}")
    ['ab', 'ac']
    """
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [
        whole for part in found.group(1).split(",") for whole in expand_braces(head + part + tail)
    ]
