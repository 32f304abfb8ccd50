"""Tables and the plot of what was measured: `python benchmarks/report.py` fills docs/performance.md and draws its plot.

Text between a mark and `<!-- end -->` is written anew from `benchmarks/measured/NAME.json`:

    <!-- measured NAME PART -->
    <!-- end -->

PART is a group of rows (`dpo`, `experts`, `sampling`, …), `machine`, `limits`, `operators`, `parity` or `plot`, which
is the picture docs/performance.png. Within a sentence, `ratio WORK PRECISION` is the median ratio of the first row of
that work.
"""

import json
import re
import shlex
import textwrap
from pathlib import Path

from tabulate import tabulate

FOLDER = Path(__file__).parent / "measured"
DOCUMENT = Path(__file__).parent.parent / "docs/performance.md"
PLOT = DOCUMENT.with_suffix(".png")
MARK = re.compile(r"<!-- measured (?P<words>[^\n]*?) -->.*?<!-- end -->", re.DOTALL)
COLOURS = {"fp32": "#4477aa", "bf16": "#cc6677"}
HEADINGS = ["Work", "Ours", "Peer", "", "Unit", "Ratio", "Spread", "Limit"]


def table(lines: list, headings: list[str]) -> str:
    """Markdown, without empty columns, and without spaces that align where they would make it wider than 120."""
    kept = [i for i in range(len(headings)) if any(line[i] for line in lines)]
    lines, headings = [[line[i] for i in kept] for line in lines], [headings[i] for i in kept]
    right = ["left"] + ["right" if heading not in ("", "Unit") else "left" for heading in headings[1:]]
    text = tabulate(lines, headings, "pipe", disable_numparse=True, colalign=right)
    return text if len(text.partition("\n")[0]) <= 120 else re.sub(" {2,}", " ", re.sub("-{4,}", "---", text))


def number(value: float) -> str:
    """Three figures that count, or the whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def line(row: dict) -> list[str]:
    low, middle, high = row["ratio"]
    note = f" (FLOPs × {row['flops_ratio']:.2f})" if row.get("flops_ratio") else ""
    return [
        f"{row['work']}, {row['precision']}{note}",
        number(row["ours"]),
        number(row["peer"]),
        row["peer_name"],
        row["unit"],
        f"{middle:.2f}",
        f"{low:.2f} to {high:.2f}" if low < high else "",
        f"{row['share']:.0%}" if row.get("share") else "",
    ]


def rows(results: dict, group: str | None = None) -> str:
    """The rows of one group, or of all."""
    return table([line(row) for row in results["rows"] if group in (None, row["group"])], HEADINGS)


def machine(results: dict) -> str:
    """What was measured where, when and how."""
    found, how = results["machine"], results["options"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    features = f" ({', '.join(found['features'])})" if found.get("features") else ""
    text = f"{found['device']}{features}; {versions}; commit {found['commit']}, {found['date']}. "
    text += how.get("note") or (
        f"Size `{how['size']}`, {how['batch']} pairs a step, {how['threads']} of {found['cores']} threads. Medians of "
        f"{how['rounds']} rounds of {how['seconds']} s a variant, {how['clock']} clock; "
        f"{results['minutes']:.1f} minutes in all."
    )
    return textwrap.fill(text, 120)


def limits(results: dict) -> str:
    return table([[name, number(value)] for name, value in results["limits"].items()], ["Limit", "Measured"])


def operators(results: dict) -> str:
    """Milliseconds a step by kind of operator, a column for each precision and revision."""
    columns = results["operators"]
    kinds = dict.fromkeys(kind for times in columns.values() for kind in times)
    lines = [[kind, *(f"{times.get(kind, 0):.0f}" for times in columns.values())] for kind in kinds]
    lines.append(["all", *(f"{sum(times.values()):.0f}" for times in columns.values())])
    return table(lines, ["ms a step", *columns])


def parity(results: dict) -> str:
    """Largest difference of a loss, and whether replayed steps gave the same as those from Python."""
    lines = [
        [
            row["method"],
            f"{row['difference']:.1e}",
            "yes" if row["agrees"] else "no" if row["compared"] else "not compared",
            {None: "", True: "yes", False: "no"}[row.get("replay_agrees")],
        ]
        for row in results["parity"]
    ]
    return table(lines, ["Method", "Largest difference", "Agrees", "Replay agrees"])


def everything(path: Path) -> str:
    """All of one file."""
    results = json.loads(path.read_text())
    parts = {"limits": limits, "operators": operators, "parity": parity}
    texts = [part(results) for name, part in parts.items() if name in results]
    return "\n\n".join([machine(results), rows(results), *texts])


def part(words: str) -> str:
    """What stands after the mark with these words. Raises `SystemExit` if nothing fills it."""
    name, what, *rest = shlex.split(words)
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        raise SystemExit(f"measured {words}: expected {path.name} in {FOLDER}, found no such file; correct the mark")
    results = json.loads(path.read_text())
    if what == "ratio":
        found = [row for row in results["rows"] if [row["work"], row["precision"]] == rest]
        text = f"{found[0]['ratio'][1]:.2f}" if found else ""
    elif what == "plot":
        text = f"\n![Speed beside the peers, and costs of several experts beside DPO]({PLOT.name})\n"
    elif what in ("machine", "limits", "operators", "parity"):
        text = f"\n{globals()[what](results)}\n"
    else:
        text = f"\n{rows(results, what)}\n" if any(row["group"] == what for row in results["rows"]) else ""
    if not text:
        raise SystemExit(f"measured {words}: expected such rows in {path.name}, found none; correct the mark")
    return text


def filled(text: str) -> str:
    return MARK.sub(lambda mark: f"<!-- measured {mark['words']} -->{part(mark['words'])}<!-- end -->", text)


def plot(results: dict, path: Path) -> None:
    """Left the ratios of speed to a peer's, right those of time and memory to our DPO's. Whiskers are the spread."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    speed = [row for row in results["rows"] if row["unit"].endswith("/s")]
    cost = [row for row in results["rows"] if row["group"] == "experts"]
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.6))
    _panel(axes[0], speed, "Speed: ours ÷ the peer's best")
    _panel(axes[1], cost, "Cost: ours ÷ our DPO")
    figure.legend(*axes[1].get_legend_handles_labels(), frameon=False, fontsize=9, loc="lower center", ncols=3)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=160)
    pyplot.close(figure)


def _panel(axes, lines: list[dict], title: str) -> None:
    works = list(dict.fromkeys(row["work"] for row in lines))
    for precision, colour in COLOURS.items():
        own = [row for row in lines if row["precision"] == precision]
        at = [works.index(row["work"]) + (0.15 if precision == "bf16" else -0.15) for row in own]
        low, middle, high = zip(*(row["ratio"] for row in own)) if own else ([], [], [])
        whiskers = [[m - a for m, a in zip(middle, low)], [b - m for m, b in zip(middle, high)]]
        axes.errorbar(middle, at, xerr=whiskers, fmt="o", color=colour, markersize=5, capsize=2, label=precision)
    flops = {row["work"]: row["flops_ratio"] for row in lines if row.get("flops_ratio")}
    if flops:
        at = [works.index(work) for work in flops]
        axes.plot(flops.values(), at, "d", color="black", markerfacecolor="none", markersize=8, label="ratio of FLOPs")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    ticks = [0.5, 0.7, 1, 1.5, 2, 3, 4, 6]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.4, max([row["ratio"][2] for row in lines] + [3]) * 1.15)
    axes.set_yticks(range(len(works)), works, fontsize=9)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    text = filled(DOCUMENT.read_text())
    DOCUMENT.write_text(text)
    for name in re.findall(r"<!-- measured (\S+) plot -->", text):
        plot(json.loads((FOLDER / f"{name}.json").read_text()), PLOT)


if __name__ == "__main__":
    main()
