"""DuckDB's process: runs the SQL that it is given, in its own environment, and prints seconds by
part as JSON.

`python spark_duck.py JSON`, with `{"threads": 2, "memory": "4g", "scratch": "…", "parts": {"statistics":
["create …", …], …}}`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import duckdb


def main(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run each part's statements in order."""
    connection = duckdb.connect()
    connection.execute(f"set threads = {request['threads']}")
    connection.execute(f"set memory_limit = '{request['memory']}'")
    connection.execute(f"set temp_directory = '{request['scratch']}'")
    results = {}
    for name, statements in request["parts"].items():
        started, cpu = time.perf_counter(), time.process_time()
        for statement in statements:
            connection.execute(statement)
        results[name] = {"s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    return {"version": duckdb.__version__, "result": results}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
