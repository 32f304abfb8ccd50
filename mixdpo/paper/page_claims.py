"""The claims of the page: one scale for all in σ, a scale for every other unit, and the result in sentences."""

import math
import re
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from mixdpo.paper.claims import SIGNS
from mixdpo.paper.text import number

SIGMA = {name: f"{name}_sigma" for name in ("effect", "low", "high", "published")}
"""What is drawn of a claim → its column in σ, the SD of the baseline's scores; empty for claims in other units."""
SECTIONS = {
    r"premise": "Premise of sections 1 and 4: DPO against the SFT model",
    r"section 4\.1|section 1\b|(?<!poster, )Table [13]\b": "Section 4.1: Mix-DPO on several rewards",
    r"appendix H": "Appendix H: Case 2, independent models",
    r"section 4\.2|(?<!poster, )Table 2": "Section 4.2: MoE-DPO on two domains",
    r"appendix G": "Appendix G: one expert a prompt",
    r"poster": "Poster: MoE-DPO for users",
}
"""Where the paper makes a claim → the group in which it is drawn; the first match counts."""
ELSEWHERE = "Elsewhere in the paper"
TESTED = {
    "greater": "claimed to lie above zero; 95 % interval, p two-sided and Holm-corrected over all that are judged",
    "less": "claimed to lie below zero; 95 % interval, p two-sided and Holm-corrected over all that are judged",
    "equal": "claimed to lie within a margin of a value; p of two one-sided tests, Holm-corrected likewise",
}
"""Test of a claim → what was asked."""


@dataclass(frozen=True)
class Unit:
    """A scale that claims share: what it measures, and how a value on it is printed."""

    title: str
    about: str
    short: str = ""
    factor: float = 1.0
    digits: int = 2
    sign: str = "+"

    def show(self, value: float) -> str:
        """A value with its sign; zero has none."""
        shown = number(self.factor * value, self.digits, self.sign)
        return shown if any(digit in shown for digit in "123456789–") else shown.lstrip("+")


UNITS = {
    "sigma": Unit("Scores", "in σ, the SD of the baseline’s scores over the test prompts", "σ"),
    "wins": Unit("Win rates", "above one half, in percentage points", "points", 100, 1),
    "gain": Unit("Accuracies", "above chance or above the other gate, in percentage points", "points", 100, 1),
    "accuracy": Unit(
        "Accuracy of the gate", "share of prompts sent to the expert of their domain, in %", "%", 100, 1, ""
    ),
    "weights": Unit("Weights of the experts", "difference of two mean weights, in percentage points", "points", 100, 1),
    "other": Unit("Other measures", "each in its own unit", digits=3),
}
OF_MEASURE = {
    "win_rate": "wins",
    "style_recovery": "gain",
    "heads_told_by_parameters": "gain",
    "heads_told_by_words": "gain",
    "gate_accuracy": "accuracy",
    "pretrained_gate_accuracy": "accuracy",
    "posterior_spread": "weights",
    "posterior_by_domain": "weights",
    "weights_by_domain": "weights",
}
"""Measure of a claim without σ → its unit."""
HEADLINES = (
    (
        {f"dpo_over_reference_{reward}": reward for reward in ("sentiment", "informativeness", "grammar")},
        "DPO",
        (
            "improves every reward over the SFT model",
            "improves some of the rewards over the SFT model",
            "does not improve the rewards over the SFT model",
            "may or may not improve the rewards over the SFT model: the data are too few",
        ),
    ),
    (
        {"case1_over_dpo": "all three rewards together"},
        "The mixture of Mix-DPO (Case 1)",
        ("beats DPO", "", "does not beat DPO, contrary to the paper", "may or may not beat DPO: the data are too few"),
    ),
    (
        {"heads_specialise": "the best head of a reward over the others"},
        "The heads of Case 1",
        ("specialise in one reward each", "", "do not specialise in one reward each", "may or may not specialise"),
    ),
    (
        {"learned_gate_over_dpo_movie": "movies", "learned_gate_over_dpo_book": "books"},
        "MoE-DPO with a learned gate",
        (
            "beats DPO on both domains",
            "beats DPO on one domain",
            "does not beat DPO, contrary to the paper",
            "may or may not beat DPO: the data are too few",
        ),
    ),
    (
        {"win_rate_mixture_over_dpo": "against DPO", "win_rate_mixture_over_reference": "against the SFT model"},
        "For users of several types MoE-DPO",
        ("wins more often than not", "wins against one opponent", "does not win", "may or may not win"),
    ),
)
"""Claims with their short names, what a sentence about them begins with, and how it goes on: all are supported,
some are, none is and at least one is not supported, or all are undecided."""
ONE_SEED = "one training seed decides nothing"
"""Why claims that are not judged may hold or not."""


def claims_of(printed: dict, rows: list[dict]) -> list[dict]:
    """The claims as they are drawn. `printed` is their table with the page's cells, `rows` is how they are claimed."""
    how, claims = {row["claim"]: row for row in rows}, []
    for cells in printed["rows"]:
        record = next(record for cell in cells for record in cell["records"])
        row, verdict = how[record["claim"]], record["verdict"]
        sigma = not math.isnan(value(record, SIGMA["effect"]))
        unit = "sigma" if sigma else OF_MEASURE.get(row.get("measure"), "other")
        if unit == "accuracy" and "baseline" in row:
            unit = "gain"
        reason = next((cell["text"] for cell in cells if cell["text"].startswith(f"{verdict}: ")), "")
        claims.append(
            {key: record[key] for key in ("claim", "text", "where", "verdict")}
            | {name: value(record, column if sigma else name) for name, column in SIGMA.items()}
            | {"unit": unit, "section": section_of(record["where"]), "sign": SIGNS.get(verdict, "–")}
            | {"reason": reason.removeprefix(f"{verdict}: ") or row.get("reason", "")}
            | {"p": value(record, "p_holm"), "cell": next((c["cell"] for c in cells if "cell" in c), None)}
        )
    return claims


def value(record: dict, column: str) -> float:
    return float(record.get(column) or "nan")


def section_of(where: str) -> str:
    return next((title for pattern, title in SECTIONS.items() if re.search(pattern, where)), ELSEWHERE)


def panels(claims: list[dict]) -> list[dict]:
    """A panel for every unit that has claims, with its scale and its claims by the sections of the paper."""
    found = []
    for key, unit in UNITS.items():
        own = [claim for claim in claims if claim["unit"] == key and not math.isnan(claim["effect"])]
        groups = {title: [c for c in own if c["section"] == title] for title in (*SECTIONS.values(), ELSEWHERE)}
        if own:
            groups = {title: lines for title, lines in groups.items() if lines}
            found.append({"key": key, "unit": unit, "scale": Scale.of(own, unit), "groups": groups})
    return found


@dataclass(frozen=True)
class Scale:
    """A linear axis from `low` to `high` with ticks; what lies outside is drawn at its end as an arrow."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, claims: list[dict], unit: Unit) -> "Scale":
        """An axis that holds zero (of differences) and all values but those far away from most."""
        values = np.array([claim[name] for claim in claims for name in SIGMA])
        values = np.append(values[~np.isnan(values)], [0.0] * bool(unit.sign))
        inner, outer = np.quantile(values, [0.05, 0.95])
        low = max(values.min(), min(inner - (outer - inner) / 2, 0.0 if unit.sign else math.inf))
        high = min(values.max(), max(outer + (outer - inner) / 2, 0.0 if unit.sign else -math.inf))
        low, high = (low, high) if high > low else (low - 1, high + 1)
        power = 10.0 ** math.floor(math.log10((high - low) / 4))
        step = next(power * n for n in (1, 2, 5, 10) if power * n >= (high - low) / 5)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(round(step * n, 12) for n in range(first, last + 1))
        return cls(ticks[0], ticks[-1], ticks)

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the axis."""
        return 100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def beyond(self, value: float) -> int:
        return (value > self.high) - (value < self.low)


SHAPES = {("effect", 0): "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", ("published", 0): "M0-5.5L5.5 0 0 5.5-5.5 0z"}
SHAPES |= {(kind, 1): "M8 0L-1-5V5z" for kind in ("effect", "published", "interval")}
SHAPES |= {(kind, -1): "M-8 0L1-5V5z" for kind in ("effect", "published", "interval")}
"""Kind of mark, and the end of the axis that it lies beyond (or 0) → its outline: our disc, the paper's open diamond.

An interval that is cut off has an arrow as well."""


def drawn(claim: dict, panel: dict) -> Markup:
    """A claim's interval, effect and published effect on the panel's scale."""
    scale, unit = panel["scale"], panel["unit"]
    effect, low, high, published = (claim[name] for name in SIGMA)
    marks = [line("tick" if tick or not unit.sign else "tick null", scale.at(tick)) for tick in scale.ticks]
    said = f"{unit.show(effect)} {unit.short}"
    if not math.isnan(low):
        said += f", 95 % interval {unit.show(low)} to {unit.show(high)}"
        shape = Markup('<line class="interval" x1="{:.2f}%" x2="{:.2f}%" y1="50%" y2="50%"/>')
        marks.append(shape.format(scale.at(low), scale.at(high)))
    ends = [("interval", end) for end in (low, high) if scale.beyond(end) and not scale.beyond(effect)]
    for kind, where in (*ends, ("published", published), ("effect", effect)):
        if not math.isnan(where):
            shape = Markup('<svg x="{:.2f}%" y="50%" overflow="visible"><path class="{}" d="{}"/></svg>')
            marks.append(shape.format(scale.at(where), kind, SHAPES[kind, scale.beyond(where)]))
    said += "" if math.isnan(published) else f"; the paper {unit.show(published)}"
    return Markup('<svg class="drawn" role="img" aria-label="{}">{}</svg>').format(said, Markup("").join(marks))


def line(kind: str, x: float) -> Markup:
    return Markup('<line class="{}" x1="{:.2f}%" x2="{:.2f}%" y1="0" y2="100%"/>').format(kind, x, x)


def axis(panel: dict) -> Markup:
    """The numbers of a panel's ticks."""
    shape = Markup('<text x="{:.2f}%" y="70%" text-anchor="middle">{}</text>')
    scale, unit = panel["scale"], panel["unit"]
    digits = max(0, -math.floor(math.log10((scale.ticks[1] - scale.ticks[0]) * unit.factor) + 1e-9))
    texts = (shape.format(scale.at(t), number(unit.factor * t, digits, unit.sign if t else "")) for t in scale.ticks)
    return Markup('<svg class="drawn" aria-hidden="true">{}</svg>').format(Markup("").join(texts))


def headlines(claims: list[dict]) -> list[dict]:
    """The result in sentences: what is found, and the claims that say so with their short names."""
    known, found = {c["claim"]: c for c in claims if not math.isnan(c["effect"])}, []
    for names, lead, endings in HEADLINES:
        behind = [(short, known[name]) for name, short in names.items() if name in known]
        verdicts = [claim["verdict"] for _, claim in behind]
        if behind:
            some = 1 if "supported" in verdicts else 2 if "not supported" in verdicts else 3
            ending = endings[0 if {*verdicts} == {"supported"} else some]
            if {*verdicts} == {"not judged"}:
                ending = f"{ending.partition(':')[0]}: {ONE_SEED}"
            found.append({"text": f"{lead} {ending}", "claims": behind})
    return found
