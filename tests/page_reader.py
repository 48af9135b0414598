"""An HTML page as a test wants to ask about it: its elements, their attributes and text, as a browser's parser would see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}


@dataclass
class Element:
    """A tag with its attributes and the text directly and indirectly inside it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """`elements` in document order."""

    html: str
    elements: list[Element] = field(default_factory=list)
    _open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str) -> list[Element]:
        """Elements of this tag."""
        return [element for element in self.elements if element.tag == tag]

    @property
    def text(self) -> str:
        """What is written in the page's body."""
        return self.all("body")[0].text

    def numbers(self) -> dict[str, set[str]]:
        """data-key → the data-values found under it."""
        found: dict[str, set[str]] = {}
        for element in self.elements:
            if "data-key" in element.attributes:
                found.setdefault(element.attributes["data-key"], set()).add(element.attributes["data-value"])
        return found


def check_harmless(page: Page) -> None:
    """No script, no handler, nothing that loads or submits, no address but data: and the namespace of nothing."""
    allowed = {
        "html", "head", "meta", "title", "link", "style", "body", "main", "header", "footer", "section", "h1", "h2", "h3", "h4", "p", "em",
        "b", "i", "span", "small", "data", "bdi", "figure", "figcaption", "div", "img", "table", "caption", "thead", "tbody", "tr", "th",
        "td", "svg", "path", "text", "circle", "ul", "li", "dl", "dt", "dd", "details", "summary", "pre", "code",
    }  # fmt: skip
    assert {element.tag for element in page.elements} <= allowed
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"{element.tag} has {name}"
            assert name != "style", "an inline style would be refused by the policy"
            if name in ("src", "href", "data", "action", "srcset", "xlink:href"):
                assert value.startswith("data:"), f"{element.tag} {name}={value[:60]}"


def flat_numbers(values: object, prefix: str = "") -> dict[str, float]:
    """Numeric leaves of JSON under dotted names; lists are left out."""
    if isinstance(values, dict):
        found: dict[str, float] = {}
        for key, value in values.items():
            found |= flat_numbers(value, f"{prefix}.{key}" if prefix else key)
        return found
    return {prefix: values} if isinstance(values, int | float) and not isinstance(values, bool) else {}
