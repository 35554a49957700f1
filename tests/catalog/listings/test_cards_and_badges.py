"""Cards are written by strangers; badges are statements to the public."""

from __future__ import annotations

import pytest

from catalog.listings.badges import filing_facet
from catalog.listings.cards import render_card
from catalog.listings.prices import blended_u_per_m, per_token, shown_prices
from catalog.listings.tables import Listing
from catalog.listings.taxonomy import taxonomy


@pytest.mark.parametrize(
    "markdown",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1))",
        "[a](JaVaScRiPt:alert(1))",
        "[a](data:text/html,<script>alert(1)</script>)",
        "![a](http://127.0.0.1/admin)",
        "![a](data:image/svg+xml;base64,AAAA)",
        '<a href="https://x" onclick="x">a</a>',
        "<iframe src=https://x></iframe>",
        "<style>*{display:none}</style>",
        '[a](https://x "\\" onmouseover=alert(1) x=\\"")',
        "```html\n<script>alert(1)</script>\n```",
        "[x]: javascript:alert(1)\n[x]",
    ],
)
def test_nothing_in_a_card_can_act(markdown: str) -> None:
    from html.parser import HTMLParser

    seen: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attrs)))

    Reader().feed(render_card(markdown))
    for tag, attributes in seen:
        assert tag not in ("script", "iframe", "style")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src"):
            value = attributes.get(name)
            assert value is None or value.startswith(("https://", "mailto:"))


def test_a_card_reads_as_written() -> None:
    html = render_card(
        "---\nlicense: mit\n---\n# 写手\n\n| a | b |\n|:-:|--|\n| 1 | 2 |\n\n~~x~~ [y](https://z)"
    )
    assert "license" not in html
    assert "<h1>写手</h1>" in html
    assert '<th style="text-align:center">a</th>' in html
    assert '<a href="https://z" rel="nofollow noopener noreferrer">y</a>' in html
    assert render_card(">" * 50_000).count("<blockquote") <= 20


@pytest.mark.parametrize(
    ("route", "status", "number", "badge"),
    [
        ("full", "granted", "GD-1", "filed"),
        ("register", "granted", "GD-1", "registered"),
        ("full", "granted", None, "none"),
        ("full", "central_review", "GD-1", "none"),
        ("none", "exempt", None, "exempt"),
    ],
)
def test_a_filing_badge_needs_the_grant_and_the_number(
    route: str, status: str, number: str | None, badge: str
) -> None:
    listing = Listing(filing_route=route, filing_status=status, filing_number=number)  # type: ignore[call-arg]
    assert filing_facet(listing) == badge


def test_prices_are_exact_decimal_strings() -> None:
    assert per_token(2_500_000) == "0.0000025"
    assert per_token(1) == "0.000000000001"
    assert per_token(0) == "0"
    assert per_token(10**12) == "1"
    assert shown_prices({"input_u_per_m": 0, "output_u_per_m": 0})["prompt"] == "0"
    assert blended_u_per_m({"input_u_per_m": 1_000_000, "output_u_per_m": 5_000_000}) == 2_000_000


def test_the_shelves_have_names_in_both_languages() -> None:
    shelves = taxonomy()
    for terms in (shelves.verticals, shelves.tasks, shelves.languages):
        assert all(term.zh and term.en for term in terms.values())
    named = " ".join(term.zh for term in shelves.verticals.values())
    for vertical in ("短剧", "电子商务", "跨境电商", "知识付费", "数字文创", "软件开发"):
        assert vertical in named
    for vertical in ("法律", "金融", "医疗", "制造", "教育", "文旅", "农业", "政务"):
        assert vertical in named
