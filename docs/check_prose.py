"""Check the project's own vocabulary: `python docs/check_prose.py`, part of `make lint`.

Words and phrases that earlier versions used in odd senses are refused in code and documentation,
each with what to write instead. The glossary (`docs/glossary.md`) has the words to use.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

INSTEAD = {
    "told": "description, manifest, settings or message",
    "foretold": "estimated",
    "anew": "again",
    "beside": "next to, with, or compared with",
    "census": "statistics",
    "cure": "hint",
    "for ever": "permanently",
    "gone": "deleted or missing",
    "has not": "does not have, or lacks",
    "have not": "do not have, or lack",
    "holdings": "table state",
    "as it is": "unchanged",
    "as they are": "unchanged",
    "in little": "an example, or the same on a small scale",
    "in vain": "without effect",
    "lesson": "training input",
    "lie beside": "are stored with",
    "lie in": "are stored in",
    "lies in": "is stored in",
    "of its own": "its own, or separate",
    "settled": "rolled back, or decided",
    "spelled": "written",
    "strangers": "other programs",
    "taken": "used, read, or accepted",
    "whereof": "of which",
}
SKIPPED = ("tests/", "benchmarks/", "docs/check_prose.py", "CHANGELOG.md")

QUOTES = ('"', "'", "`")

_CODE = re.compile(r"`[^`\n]*`")
# "has not been seen" is an auxiliary verb and correct; "has not a row" is refused.
_PARTICIPLE = re.compile(r" (yet |been |\w+ed\b|run\b|begun\b|seen\b)")
_WORD = re.compile(
    "(?<![a-z])(" + "|".join(sorted(map(re.escape, INSTEAD), key=len, reverse=True)) + ")(?![a-z])",
    re.IGNORECASE,
)


def findings(paths: list[Path]) -> Iterator[str]:
    """Yield one message for each refused word in the files."""
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".md":
            text = _CODE.sub("", text)
        for number, line in enumerate(text.splitlines(), start=1):
            for match in _WORD.finditer(line):
                negation = match[1].lower() in ("has not", "have not")
                if negation and _PARTICIPLE.match(line, match.end()):
                    continue
                # A quoted word is a key of a file on disk, which keeps its name.
                if line[match.start() - 1 : match.start()] in QUOTES and match.start():
                    continue
                yield f"{path}:{number}: {match[1]!r}: write {INSTEAD[match[1].lower()]}"


def main() -> int:
    """Print what is refused; return 1 if there is any."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.md"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
    paths = [Path(n) for n in names if n and not n.startswith(SKIPPED) and Path(n).is_file()]
    found = list(findings(paths))
    print("\n".join(found) or f"prose: {len(paths)} files, no refused word")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
