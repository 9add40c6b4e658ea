"""HTML: the main content as text, headings give the sections."""

from __future__ import annotations

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from pipeline.adapters.parsers.assembly import Assembly, Outline, file_title
from pipeline.adapters.parsers.text import decode
from pipeline.errors import ParseFailed
from pipeline.types import ParsedDocument, RecordFields, Source

MAX_NESTING = 2_000

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_UNSEEN = frozenset(["head", "title", "script", "style", "noscript", "template", "iframe", "object", "dialog"])
_NO_PROSE = frozenset(["nav", "svg", "math", "canvas", "select", "button"])
_NEVER_TEXT = _UNSEEN | _NO_PROSE
_PAGE_FRAME = frozenset(["header", "footer", "aside"])
_TIGHT = frozenset(["li", "tr", "dt", "dd", "option", "br", "figcaption", "caption"])
_GROUPS = frozenset(["ul", "ol", "dl", "table", "thead", "tbody", "tfoot", "figure", "form", "fieldset", "details"])
_TEXTS = frozenset(["p", "pre", "blockquote", "hr", "address", "summary", *_HEADINGS])
_LOOSE = _GROUPS | _TEXTS | {"body", "main", "article", "section", "div", "center", "header", "footer", "aside"}
_INLINE_IN_CELLS = frozenset(["p", "div", "br"])
_CONTAINER = re.compile(
    r"<(/?)(?:address|article|blockquote|center|details|div|dl|fieldset|figure|form|main|ol|section|table|ul)\b[^<>]*>",
    re.IGNORECASE,
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([a-zA-Z0-9_:.-]+)", re.IGNORECASE)
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)


class HtmlParser:
    """One block per section. Scripts, navigation, the page's frame and hidden elements are left out."""

    def parse(self, data: bytes, source: Source, fields: RecordFields) -> ParsedDocument:
        """The text of <main>, or of the only <article>, or of <body>; raises ParseFailed."""
        try:
            tree = _tree(_flattened(_decoded(data)))
            body, frame = _content(tree)
            assembly = _assemble(body, _NEVER_TEXT | frame)
            document = assembly.document(_title(tree) or file_title(source))
            if document.text or not frame:
                return document
            return _assemble(body, _NEVER_TEXT).document(document.title)
        except (SelectolaxError, ValueError) as error:
            raise ParseFailed(f"The HTML can't be read: {error}.", "Open and save it again as HTML.") from None


def _tree(html: str) -> LexborHTMLParser:
    try:
        return LexborHTMLParser(html)
    except SelectolaxError:
        raise MemoryError from None  # whatever it holds, it is HTML: nothing else stops the parser


def _decoded(data: bytes) -> str:
    """By the charset that the page declares, where that works; otherwise like plain text."""
    declared = _CHARSET.search(data[:4096])
    if declared and not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        name = declared[1].decode("ascii").lower()
        try:
            return data.decode("cp1252" if name in ("iso-8859-1", "latin1", "us-ascii") else name)
        except (LookupError, UnicodeDecodeError):
            pass
    return decode(data)


def _flattened(html: str) -> str:
    """``html``, without its containers if they are nested absurdly deep: a tree takes the square of that in time."""
    depth = deepest = 0
    for found in _CONTAINER.finditer(html):
        depth = max(0, depth - 1) if found[1] else depth + 1
        deepest = max(deepest, depth)
    return html if deepest <= MAX_NESTING else _CONTAINER.sub("<br>", html)


def _content(tree: LexborHTMLParser) -> tuple[LexborNode | None, frozenset[str]]:
    """The element that holds the content, and which elements below it are the frame of the page."""
    for selector in ("main, [role=main]", "article"):
        found = tree.css(selector)
        if len(found) == 1:
            return found[0], frozenset()
    return tree.body, _PAGE_FRAME


def _title(tree: LexborHTMLParser) -> str:
    found = (tree.css_first(name, default=None) for name in ("head > title", "h1"))
    return next((text for node in found if node is not None and (text := node.text().strip())), "")


def _assemble(body: LexborNode | None, left_out: frozenset[str]) -> Assembly:
    writer = _Writer()
    for node, entering in _walk(body, left_out):
        (writer.enter if entering else writer.leave)(node)
    writer.flush()
    return writer.assembly


def _walk(root: LexborNode | None, left_out: frozenset[str]) -> Iterator[tuple[LexborNode, bool]]:
    """(node, True) before and (node, False) after the children of each node; no recursion."""
    pending = [(root, True)] if root is not None else []
    while pending:
        node, entering = pending.pop()
        if not entering:
            yield node, False
        elif node.tag not in left_out and not _is_hidden(node):
            yield node, True
            pending.append((node, False))
            pending += [(child, True) for child in reversed(_children(node))]


def _children(node: LexborNode) -> list[LexborNode]:
    children, child = [], node.child
    while child is not None:
        children.append(child)
        child = child.next
    return children


def _is_hidden(node: LexborNode) -> bool:
    if not node.is_element_node:
        return False
    attributes = node.attributes
    return "hidden" in attributes or bool(_HIDDEN_STYLE.search(attributes.get("style") or ""))


class _Writer:
    """Turns the walk into lines: blocks apart by blank lines, items and rows by line ends, cells by bars."""

    def __init__(self) -> None:
        self.assembly = Assembly()
        self._outline = Outline()
        self._line: list[str] = []
        self._has_text = False
        self._cells = 0
        self._open_cells = 0
        self._separator = "\n\n"
        self._verbatim = 0
        self._heading: str | None = None

    def enter(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag == "-text":
            text = node.text_content or ""
            self._line.append(text)
            self._has_text = self._has_text or bool(text.strip())
        elif tag in ("td", "th"):
            self._line += [" | "] if self._cells else []
            self._cells += 1
            self._open_cells += 1
        elif tag in _TIGHT or tag in _LOOSE:
            self._enter_block(tag)

    def leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag == self._heading:
            self._outline.enter(_HEADINGS[tag], "".join(self._line))
            self._heading = None
        if tag in ("td", "th"):
            self._open_cells -= 1
        elif tag in _TIGHT or tag in _LOOSE:
            self._break(tag)
            self._verbatim -= tag == "pre"

    def flush(self) -> None:
        if self._has_text:
            text = "".join(self._line)
            text = text if self._verbatim else " ".join(text.split())
            self.assembly.add(text, section=self._outline.path, separator=self._separator)
            self._separator = "\n"
        self._line, self._has_text = [], False

    def _enter_block(self, tag: str) -> None:
        self._break(tag)
        self._verbatim += tag == "pre"
        if tag == "li":
            self._line = ["- "]
        elif tag == "tr":
            self._cells = 0
        elif tag in _HEADINGS:
            self._heading = tag

    def _break(self, tag: str) -> None:
        """End the line. Paragraphs in a cell stay on the line of its row, and one that begins an item on its."""
        if self._open_cells and tag in _INLINE_IN_CELLS:
            self._line.append(" ")
            return
        if tag in _LOOSE and self._line == ["- "]:
            return
        self.flush()
        if tag in _LOOSE:
            self._separator = "\n\n"
