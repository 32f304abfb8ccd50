"""Figure 2: the words that set the completions of each head apart from the other heads'."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from scipy import stats

from mixdpo.data.statistics import mean_and_se
from mixdpo.paper.figures.style import FONT, GREY, HEAD_COLOURS, STYLE, WIDTH, across, folders, letter
from mixdpo.paper.scores import head_order, triplets_of

LETTERS = r"[^\W\d_]+(?:['’-][^\W\d_]+)*"
WORD = re.compile(rf"(?<![\w\ufffd\xad-]){LETTERS}(?!['’]?[\w\ufffd\xad-])")
"""Letters, with apostrophes and hyphens inside, between spaces or punctuation."""
POINTS = 3.6
"""Type size for each unit of z, within SMALLEST and LARGEST."""
SMALLEST, LARGEST = 6.0, 18.0
GAP = 5.0
"""Points between the words of a line."""


def words_of(prompt: str, completion: str) -> set[str]:
    """Words of at least three letters as written, except those that the prompt began or the end of the text may cut."""
    text = prompt + completion
    found = (m for m in WORD.finditer(text) if m.start() >= len(prompt) and m.end() < len(text))
    return {m.group().replace("’", "'") for m in found if len(m.group()) >= 3}


def document_frequencies(heads: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """How many of each head's completions contain a word: (V, K), in lower case unless mostly capitalised."""
    texts = [[words_of(*pair) for pair in zip(frame["prompt"], frame["completion"])] for frame in heads]
    forms: dict[str, Counter] = defaultdict(Counter)
    for form, count in Counter(form for head in texts for text in head for form in text).items():
        forms[form.lower()][form] += count
    spelling = {
        word: word if 2 * found[word] >= found.total() else max(found, key=lambda form: (found[form], form))
        for word, found in forms.items()
    }
    counts = [Counter(word for text in head for word in {spelling[form.lower()] for form in text}) for head in texts]
    return pd.DataFrame(dict(enumerate(counts))).fillna(0).astype(int).sort_index()


def log_odds_z(counts: pd.DataFrame, prior: float) -> pd.DataFrame:
    """z-scores of each head's log-odds of a word against the other heads', (V, K): Monroe et al. (2008), eq. 16 to 22.

    The Dirichlet prior is all heads' distribution of words, worth `prior` counts.
    """
    pooled = counts.sum(axis=1)
    alpha = prior * pooled / pooled.sum()

    def log_odds(y: pd.Series) -> pd.Series:
        return np.log((y + alpha) / (y.sum() + prior - y - alpha))

    rest = counts.rsub(pooled, axis=0)
    return pd.DataFrame(
        {
            k: (log_odds(counts[k]) - log_odds(rest[k])) / np.sqrt(1 / (counts[k] + alpha) + 1 / (rest[k] + alpha))
            for k in counts
        }
    )


def best_styles(table: dict, artifacts: dict[str, Path], order: dict[str, list[int]]) -> list[tuple[str, float] | None]:
    """The style with each head's largest mean q on validation triplets; None if the next style is within 2 SE."""
    frames = {
        policy: triplets_of(folder, "validation")
        for policy, folder in folders(artifacts, "policies", table["rows"][0]["policy"]).items()
    }
    style = next(iter(frames.values()))["style"]
    best = []
    for head in range(len(next(iter(order.values())))):
        q = np.stack([frame[f"q{order[policy][head]}"] for policy, frame in frames.items()])
        ranked = sorted(((s, *mean_and_se(q[:, style == s])) for s in table["rewards"]), key=lambda line: -line[1])
        (first, mean, se), (_, next_mean, next_se) = ranked[:2]
        best.append((first, mean) if mean - next_mean > 2 * np.hypot(se, next_se) else None)
    return best


def completions_by_head(table: dict, artifacts: dict[str, Path], order: dict[str, list[int]]) -> list[pd.DataFrame]:
    """The completions that each head wrote alone, of every seed."""
    pools = defaultdict(list)
    for policy, folder in folders(artifacts, "completions", table["rows"][0]["policy"]).items():
        frame = pd.read_parquet(folder / "completions.parquet")
        for head, k in enumerate(order[policy]):
            pools[head].append(frame[frame["decoding"] == f"expert{k}"])
    return [pd.concat(pools[head]) for head in sorted(pools)]


def words(table: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """The words that each head's own completions contain more often than the other heads', largest z first.

    Words in the head's colour have a z-score above the table's; grey ones may owe their place to chance. A word that
    less than `at_least` of all completions hold is left out: z is not normal there, and a small model invents words.
    """
    order = head_order(artifacts, table["rows"][0]["policy"])
    heads = completions_by_head(table, artifacts, order)
    counts, total = document_frequencies(heads), sum(map(len, heads))
    z = log_odds_z(counts, table["prior"])[counts.sum(axis=1) >= table["at_least"] * total]
    best, chance = best_styles(table, artifacts, order), len(z) * stats.norm.sf(table["z"])

    width, places, lines = 72 * WIDTH / len(heads) - 2 * GAP, [], []
    for head in range(len(heads)):
        top = z[head][z[head] > 0].sort_index().sort_values(ascending=False, kind="stable")[: table["words"]]
        places.append(flow(top, width))
        style, q = best[head] or ("", np.nan)
        own = pd.DataFrame({"word": top.index, "weight": top.to_numpy()})
        own["completions"], own["of"] = counts.loc[top.index, head].to_numpy(), len(heads[head])
        own["other_completions"] = (counts.loc[top.index].sum(axis=1) - counts.loc[top.index, head]).to_numpy()
        own["other_of"], own["by_chance"] = total - len(heads[head]), chance
        lines.append(own.assign(panel=letter(head), series=f"Head {head}", responsible_for=style, q=q))

    height = max(bottom for _, bottom in places)
    figure = across((height + 52) / 72)
    for head, axis in enumerate(figure.subplots(1, len(heads), squeeze=False)[0]):
        axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal", anchor="N", xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        draw_words(axis, places[head][0], lines[head], table["z"], HEAD_COLOURS[head])
        apart = f"{(lines[head]['weight'] > table['z']).sum()} of {len(lines[head])} words at $z$ > {table['z']}"
        style = f"most for {best[head][0]}, $q$ = {best[head][1]:.2f}" if best[head] else "no style stands out"
        axis.set_title(f"({letter(head)}) Head {head}\n{style}\n{apart}")
    note = f"Size: $z$ of the word. Colour: $z$ > {table['z']} (by chance alone: {chance:.1f} words a head)"
    figure.supxlabel(note, fontsize=STYLE["axes.labelsize"])
    columns = ["panel", "series", "word", "weight", "completions", "of", "other_completions", "other_of", "by_chance"]
    return figure, pd.concat(lines, ignore_index=True)[[*columns, "responsible_for", "q"]]


def outline(word: str, size: float) -> TextPath:
    """The word as a path, `size` points large, its baseline at 0 and its ink starting at x = 0."""
    path = TextPath((0, 0), word, size=size, prop=FONT)
    return path.transformed(Affine2D().translate(-path.get_extents().x0, 0))


def rows_of(words: list[tuple[TextPath, float, float]], width: float) -> list[list[tuple[TextPath, float, float]]]:
    """(outline, width, size) of the words in lines, each as full as `width` allows."""
    rows, used = [[]], 0.0
    for word in words:
        if rows[-1] and used + word[1] > width:
            rows.append([])
            used = 0.0
        rows[-1].append(word)
        used += word[1] + GAP
    return rows


def flow(weights: pd.Series, width: float) -> tuple[list[tuple[TextPath, float, float]], float]:
    """Words in lines of at most `width` points, centred: (outline, x, baseline) with y downwards, and the height.

    Lines are no longer than their number asks for, so that none is left with a single word.
    """
    sizes = [min(max(POINTS * z, SMALLEST), LARGEST) for z in weights]
    paths = [outline(word, size) for word, size in zip(weights.index, sizes)]
    words = [(path, path.get_extents().x1, size) for path, size in zip(paths, sizes)]
    rows = rows_of(words, width)
    for narrower in np.arange(width, width / 2, -2.0):
        closer = rows_of(words, narrower)
        if len(closer) > len(rows):
            break
        rows = closer
    places, y = [], 0.0
    for row in rows:
        y += 1.4 * max((size for *_, size in row), default=0.0)
        x = (width - sum(ink + GAP for _, ink, _ in row) + GAP) / 2
        for path, ink, _ in row:
            places.append((path, x, y))
            x += ink + GAP
    return places, y + 3


def draw_words(axis: Axes, places: list, lines: pd.DataFrame, threshold: float, colour: str) -> None:
    """The outlines where `flow` puts them, those above the threshold in colour."""
    for (path, x, y), z in zip(places, lines["weight"], strict=True):
        place = Affine2D().scale(1, -1).translate(x, y)
        axis.add_patch(PathPatch(path.transformed(place), color=colour if z > threshold else GREY, linewidth=0))
