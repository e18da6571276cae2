"""Make Great Expectations' HTML page stand alone: no script, style sheet, image or link of another host.

The page loads Bootstrap, jQuery, fonts and a logo from content networks; offline it would open unstyled, and online it
would tell those networks who looks at the data. What it needs of them is a few lines of CSS.
"""

from __future__ import annotations

import html
import re

_REMOVED = (
    r"<script\b.*?</script>",
    r"<link\b[^>]*>",
    r"<img\b[^>]*>",
    r"<style>.*?</style>",
    r"<footer>.*?</footer>",
    r"<title>.*?</title>",
)

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1c2733; }
nav, .d-none, .collapse, .card, .mb-4, [data-toggle="collapse"] { display: none; }
table { border-collapse: collapse; width: 100%; margin: .3rem 0 1rem; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #d8dee6; vertical-align: top; }
th:first-child, td:first-child { width: 5rem; } th:last-child, td:last-child { width: 12rem; }
h5 { font-size: 1.05rem; margin: 1.2rem 0 .2rem; font-family: ui-monospace, monospace; } h6, .h6 { font-weight: 600; }
.text-danger { color: #b3261e; } .text-success { color: #1b7f3b; } i { font-style: normal; font-weight: 700; }
.fa-check-circle::before { content: "✔ passed"; } .fa-times::before { content: "✘ failed"; }
"""


def standalone(page: str, title: str) -> str:
    """Return a Data Docs page that contacts no host, under a title of ours."""
    for pattern in _REMOVED:
        page = re.sub(pattern, "", page, flags=re.DOTALL)
    page = re.sub(r'href="(?!#)[^"]*"', 'href="#"', page)
    head = f"<head><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    return page.replace("<head>", head, 1).replace(
        "<body>", f"<body><h1>{html.escape(title)}</h1>", 1
    )
