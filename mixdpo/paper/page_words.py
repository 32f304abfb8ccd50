"""Names, numbers and texts of the page as a reader of the paper knows them. Every function here is a filter."""

import re

from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from mixdpo.paper.text import number

IDENTIFIER = re.compile(r"(?<![\w./-])[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?![\w/]|\.\w)")
"""A name from the configuration in a text, but no part of a path."""
METHOD = {"dpo": "DPO", "mix": "Mix-DPO", "moe": "MoE-DPO", "case1": "Case 1", "case2": "Case 2"}
DECODINGS = {
    "token": "Mixture, by token",
    "sequence": "Mixture, by sequence",
    "sparse": "Expert of the largest weight",
}


def named(text: str) -> str:
    """A text whose names from the configuration are in words: `mix_case1` is “Mix-DPO, Case 1”."""
    return IDENTIFIER.sub(lambda match: words_of(match[0]), text)


def words_of(name: str) -> str:
    """A method, an experiment or any other name of the configuration in words."""
    if name == "reference":
        return "Reference (SFT)"
    kind, _, rest = name.removeprefix("user_").partition("_")
    if kind in METHOD:
        parts = re.findall(r"case\d+|[^_]+(?:_(?!case\d)[^_]+)*", rest)
        said = ", ".join([METHOD[kind], *(METHOD.get(part, part.replace("_", " ")) for part in parts)])
        return f"{said}{',' * bool(rest)} for users" if name.startswith("user_") else said
    return re.sub(r"^seed(?=\d)", "seed ", name.replace("multi_", "multi-").replace("_", " "))


def titled(name: str) -> str:
    """The name of a table, figure or experiment as a heading."""
    said = words_of(re.sub(r"(?<=[a-z])(\d+)$", r" \1", name))
    return said[:1].upper() + said[1:]


def headed(table: dict) -> str:
    """What a table is called: its title, after its number in the paper or on the poster."""
    printed, title = re.fullmatch(r"(poster_)?table(\d+)", table["name"]), table["title"]
    if printed is None or f"Table {printed[2]}" in title:
        return title
    return f"{'Poster, ' * bool(printed[1])}Table {printed[2]}: {title}"


def decoded(decoding: str) -> str:
    """How a completion was drawn from a policy."""
    return DECODINGS.get(decoding, decoding.replace("expert", "Expert "))


def prose(text: str) -> Markup:
    """A text with names in words, minus signs before its numbers and `code` set as code."""
    parts = re.split(r"`([^`]+)`", text)
    set_as_code = (Markup("<code>{}</code>").format(part) for part in parts[1::2])
    texts = [escape(signed(named(part))) for part in parts[::2]]
    return Markup("").join(piece for pair in zip(texts, [*set_as_code, ""]) for piece in pair)


def prose_lines(text: str) -> Markup:
    """Several values in one cell, a line each."""
    return Markup("<br>").join(prose(part) for part in text.split("; "))


def signed(text: str) -> str:
    """A text with minus signs before its numbers."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def weights(count: int) -> str:
    """How many weights a model has, in millions or, of a small one, in thousands."""
    small = count < 1e5
    return f"{number(count / (1e3 if small else 1e6), 0 if small else 1)} {'thousand' if small else 'million'} weights"


def thousands(values: list[int]) -> list[str]:
    return [f"{value:,}" for value in values]


def listed(values: list, last: str = "and") -> str:
    """Values as a list in a sentence."""
    words = [str(value) for value in values]
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def markdown(text: str) -> Markup:
    """A document of docs/ as a part of the page: its title left out, its headings below the page's."""
    parser = MarkdownIt("commonmark", {"html": False, "typographer": False}).enable("table")
    tokens = parser.parse(text)
    title = next((i for i, token in enumerate(tokens) if token.type == "heading_close"), -1)
    for token in (body := tokens[title + 1 :]):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
        if token.type == "th_open":
            token.attrSet("scope", "col")
    html = parser.renderer.render(body, parser.options, {})
    scroll = '<div class="scroll" tabindex="0" role="group" aria-label="Table, scrolls sideways"><table>'
    return Markup(html.replace("<table>", scroll).replace("</table>", "</table></div>"))
