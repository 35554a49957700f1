"""Markdown cards to HTML that is safe to show: cards are written by strangers.

Markdown is rendered with raw HTML off, and the result is cleaned once more against an allow-list, so
that two things have to fail before a script runs. Links leave with `nofollow noopener`, images come
from `https` only, and what one may not show is not shown.
"""

from __future__ import annotations

from functools import cache

import nh3
from markdown_it import MarkdownIt

_BLOCKS = {
    "p",
    "br",
    "hr",
    "pre",
    "blockquote",
    "ul",
    "ol",
    "li",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
}
_INLINE = {"strong", "em", "s", "code", "a", "img"}
_TABLES = {"table", "thead", "tbody", "tr", "th", "td"}
TAGS = _BLOCKS | _INLINE | _TABLES
ATTRIBUTES = {
    "a": {"href", "title"},
    "img": {"src", "alt", "title"},
    "code": {"class"},
    "th": {"style"},
    "td": {"style"},
    "ol": {"start"},
}
NESTING_MAX = 20
"""Deeper Markdown is shown as it was written: nobody reads it, and parsing it costs."""


@cache
def _markdown() -> MarkdownIt:
    options = {"html": False, "linkify": False, "typographer": False, "maxNesting": NESTING_MAX}
    return MarkdownIt("commonmark", options).enable(["table", "strikethrough"])


def render_card(markdown: str) -> str:
    """Return safe HTML; front matter between `---` lines at the top is left out."""
    html: str = _markdown().render(_without_front_matter(markdown))
    return nh3.clean(
        html,
        tags=TAGS,
        attributes=ATTRIBUTES,
        attribute_filter=_attribute,
        url_schemes={"https", "mailto"},
        link_rel="nofollow noopener noreferrer",
    )


def _attribute(_tag: str, name: str, value: str) -> str | None:
    if name == "style":
        sides = ("text-align:left", "text-align:right", "text-align:center")
        return value if value in sides else None
    if name == "class":
        language = value.removeprefix("language-")
        return value if value != language and language.replace("-", "").isalnum() else None
    if name == "src" and not value.startswith("https://"):
        return None
    return value


def _without_front_matter(markdown: str) -> str:
    text = markdown.replace("\r\n", "\n")
    if not text.startswith("---\n"):
        return text
    end = text.find("\n---\n", 3)
    return text if end < 0 else text[end + 5 :]
