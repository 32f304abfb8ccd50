"""Figures in print: png and pdf as they are read, and csv with every number that is drawn.

A head has the same colour, line marker and hatch in every figure, and several seeds' heads are matched to the first
seed's before they are averaged.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import PathPatch
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits
from wordcloud import WordCloud

from mixdpo.data.statistics import mean_and_se
from mixdpo.method.runtime import Runtime
from mixdpo.paper.scores import head_differences, head_order, moved_rows, policies_in
from mixdpo.run.kinds import KINDS
from mixdpo.run.published import opened

HEAD_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#56B4E9")
"""Head 0 and on; with LABEL_LINES all of Okabe and Ito's colours that are legible on white."""
HEAD_MARKERS = ("o", "^", "s", "D")
HEAD_HATCHES = ("", "////", "....", "xxxx")
LABEL_LINES = (("#E69F00", "-"), ("#000000", "--"), ("#CC79A7", "-."), ("#56B4E9", ":"))
"""Colour and line style of the styles or domains, in the order of the yaml."""
STYLE_MARKERS = ("v", "P", "X", "p")
"""Of the users' styles, in the order of the yaml and the colours of LABEL_LINES; none is a head's."""
GREY = "#808080"
WIDTH = 7.0
"""Inches: the text width of a two-column page."""
FONT = FontProperties(fname=f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.2,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def figures(out: Path, spec: dict, *, runtime: Runtime, resume: Path, published: Path, **artifacts: Path) -> None:
    """Write `TABLE.png` (300 dpi), `TABLE.pdf` and `TABLE.csv`, the same bytes from the same input.

    `artifacts` are named as `graph.table_inputs` names them.
    """
    table, folders = opened(published, artifacts)
    with matplotlib.style.context(["default", STYLE]):
        figure, numbers = KINDS[table["kind"]].make(table, folders)
        figure.savefig(out / f"{spec['table']}.png", dpi=300, metadata={"Software": None})
        undated = {"CreationDate": None, "Creator": None, "Producer": None}
        figure.savefig(out / f"{spec['table']}.pdf", dpi=300, metadata=undated)
    numbers.to_csv(out / f"{spec['table']}.csv", index=False)


def folders(artifacts: dict[str, Path], stage: str, method: str) -> dict[str, Path]:
    """Folders of one stage of a method's policies, by policy; the first training seed first."""
    return {policy: artifacts[f"{stage}:{policy}"] for policy in policies_in(artifacts, method, stage)}


def letter(panel: int) -> str:
    return f"({'abcdefgh'[panel]})"


def posterior_curves(table: dict, artifacts: dict[str, Path], labels: Sequence[str]) -> tuple[pd.DataFrame, int]:
    """Mean over seeds of the responsibilities of the minibatches' triplets, and the window of their rolling mean.

    A point is the mean of the last `table["smoothing"]` of the run's steps, without minibatches that lack the label,
    and starts when the window is full. Columns panel, series (label), x (step), y, sd over seeds, seeds, head.
    """
    method, frames = table["rows"][0]["policy"], []
    orders = head_order(artifacts, method)
    for policy, folder in folders(artifacts, "policies", method).items():
        curve = pd.read_csv(folder / "curve.csv", index_col="step")
        window = max(1, round(table["smoothing"] * len(curve)))
        for head, k in enumerate(orders[policy]):
            for label in labels:
                y = curve[f"q{k} {label}"].rolling(window, min_periods=1).mean().iloc[window - 1 :]
                frames.append(pd.DataFrame({"head": head, "series": label, "x": y.index, "y": y.to_numpy()}))
    grouped = pd.concat(frames).groupby(["head", "series", "x"], sort=False)["y"]
    points = grouped.agg(y="mean", sd="std", seeds="size").reset_index()
    points.insert(0, "panel", points["head"].map(lambda head: "abcdefgh"[head]))
    return points[["panel", "series", "x", "y", "sd", "seeds", "head"]], window


def draw_posteriors(figure: SubFigure, points: pd.DataFrame, window: int, published: Sequence[float] = ()) -> None:
    """A panel per head, a line per label with its spread (SD) over seeds, 1/K, and what the paper ends with."""
    heads = points["head"].nunique()
    axes = figure.subplots(1, heads, sharey=True, squeeze=False)[0]
    for head, axis in enumerate(axes):
        own = points[points["head"] == head]
        for i, (label, line) in enumerate(own.groupby("series", sort=False)):
            colour, style = LABEL_LINES[i]
            axis.plot(line["x"], line["y"], color=colour, linestyle=style, label=label.capitalize())
            low, high = line["y"] - line["sd"], line["y"] + line["sd"]
            axis.fill_between(line["x"], low, high, color=colour, alpha=0.2, linewidth=0)
        axis.axhline(1 / heads, color=GREY, linewidth=0.6, zorder=0, label=f"1/{heads}")
        if published:
            end = own["x"].max()
            axis.scatter(end, published[head], s=14, marker="<", color="black", clip_on=False, zorder=3, label="Paper")
        axis.set_title(f"{letter(head)} Head {head}")
        axis.set_xlim(left=0)
        axis.locator_params(axis="x", nbins=4)
    axes[0].set_ylabel("Mean posterior weight $q_k$")
    seeds = points["seeds"].max()
    band = f"; band: SD of {seeds} seeds" if seeds > 1 else ""
    figure.supxlabel(f"Training step (rolling mean of {window} steps{band})", fontsize=STYLE["axes.labelsize"])
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(handles[0]), columnspacing=1, handlelength=1.6)


def head_map(differences: np.ndarray, table: dict) -> pd.DataFrame:
    """t-SNE of the `moved_rows` of every head. One row a point: head, token (its id), x, y.

    `differences` is (K, V, d), heads as they are shown.
    """
    tokens = moved_rows(differences, table["rows_per_head"])
    rows = differences[:, tokens].reshape(-1, differences.shape[2])
    perplexity = min(table["perplexity"], (len(rows) - 1) / 3)
    with threadpool_limits(1):  # the threads change the last bits, and t-SNE makes much of them
        places = TSNE(perplexity=perplexity, init="pca", random_state=table["seed"]).fit_transform(rows)
    head = np.repeat(np.arange(len(differences)), len(tokens))
    return pd.DataFrame(
        {"head": head, "token": np.tile(tokens, len(differences)), "x": places[:, 0], "y": places[:, 1]}
    )


def posteriors(table: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """Posterior weights by style over training, every seed, and t-SNE of the first seed's head parameters."""
    points, window = posterior_curves(table, artifacts, table["rewards"])
    method = table["rows"][0]["policy"]
    policy, folder = next(iter(folders(artifacts, "policies", method).items()))
    order = head_order(artifacts, method)[policy]
    places = head_map(head_differences(folder, artifacts[f"sft:{table['experiment']}"])[order], table)
    places["panel"], places["series"] = "abcdefgh"[len(order)], places["head"].map("Head {}".format)

    printed = [entry["value"] for entry in table["published"]][: len(order)]
    paper = pd.DataFrame({"head": range(len(printed)), "series": "published, end of training", "y": printed})
    paper.insert(0, "panel", [*"abcdefgh"[: len(printed)]])

    figure = Figure(figsize=(WIDTH, 2.1))
    left, right = figure.subfigures(1, 2, width_ratios=(len(order), 1.35))
    draw_posteriors(left, points, window, printed)
    axis = right.subplots()
    for head, own in places.groupby("head"):
        look = {"color": HEAD_COLOURS[head], "marker": HEAD_MARKERS[head], "label": f"Head {head}"}
        axis.scatter(own["x"], own["y"], s=4, alpha=0.7, linewidths=0, **look)
    axis.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    axis.set_title(f"{letter(len(order))} Head parameters $W_k - W_{{\\mathrm{{ref}}}}$")
    handles = axis.get_legend_handles_labels()
    right.legend(*handles, loc="outside upper center", ncols=3, markerscale=2, handletextpad=0, columnspacing=0.8)
    return figure, pd.concat([points, paper, places], ignore_index=True)


def words_of(prompt: str, completion: str) -> set[str]:
    """Words of at least three letters as written, but those that the prompt begins or the end of the text may cut."""
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


def best_rewards(
    table: dict, artifacts: dict[str, Path], order: dict[str, list[int]]
) -> list[tuple[str, float] | None]:
    """The style with each head's largest mean q on validation triplets; None if the next style is within 2 SE.

    q is averaged over seeds first: every seed's policy is validated on the same triplets.
    """
    frames = {
        policy: pd.read_parquet(folder / "responsibilities.parquet")
        for policy, folder in folders(artifacts, "policies", table["rows"][0]["policy"]).items()
    }
    style = next(iter(frames.values()))["style"]
    best = []
    for head in range(len(next(iter(order.values())))):
        q = sum(frame[f"q{order[policy][head]}"] for policy, frame in frames.items()) / len(frames)
        ranked = sorted(((s, *mean_and_se(q[style == s])) for s in table["rewards"]), key=lambda line: -line[1])
        (first, mean, se), (_, next_mean, next_se) = ranked[:2]
        best.append((first, mean) if mean - next_mean > 2 * np.hypot(se, next_se) else None)
    return best


def words(table: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """A word cloud per head: the words that its own completions contain more often than the other heads'.

    Words in the head's colour have a z-score above the table's; grey ones may owe their place to chance.
    """
    method = table["rows"][0]["policy"]
    order = head_order(artifacts, method)
    pools = defaultdict(list)
    for policy, folder in folders(artifacts, "completions", method).items():
        frame = pd.read_parquet(folder / "completions.parquet")
        for head, k in enumerate(order[policy]):
            pools[head].append(frame[frame["decoding"] == f"expert{k}"])
    heads = [pd.concat(pools[head]) for head in sorted(pools)]
    counts = document_frequencies(heads)
    z, best = log_odds_z(counts, table["prior"]), best_rewards(table, artifacts, order)

    figure, lines = Figure(figsize=(WIDTH, 2.45)), []
    for head, axis in enumerate(figure.subplots(1, len(heads), squeeze=False)[0]):
        top = z[head][z[head] > 0].sort_index().sort_values(ascending=False, kind="stable")[: table["words"]]
        colours = {word: HEAD_COLOURS[head] if value > table["z"] else GREY for word, value in top.items()}
        drawn = draw_cloud(axis, top.to_dict(), colours, table["seed"], WIDTH / len(heads))
        reward = f"most for {best[head][0]}, $q$ = {best[head][1]:.2f}" if best[head] else "no reward stands out"
        apart = f"{(top > table['z']).sum()} of {len(top)} words at $z$ > {table['z']}"
        axis.set_title(f"{letter(head)} Head {head}\n{reward}\n{apart}")
        style, q = best[head] or ("", np.nan)
        own = pd.DataFrame({"word": top.index, "weight": top.to_numpy(), "drawn": top.index.isin(drawn)})
        own["completions"], own["of"] = counts.loc[top.index, head].to_numpy(), len(heads[head])
        own["other_completions"] = (counts.loc[top.index].sum(axis=1) - counts.loc[top.index, head]).to_numpy()
        own["other_of"] = sum(map(len, heads)) - len(heads[head])
        lines.append(own.assign(panel="abcdefgh"[head], series=f"Head {head}", responsible_for=style, q=q))
    columns = ["panel", "series", "word", "weight", "drawn", "completions", "of", "other_completions", "other_of"]
    return figure, pd.concat(lines, ignore_index=True)[[*columns, "responsible_for", "q"]]


def draw_cloud(axis: Axes, weights: dict[str, float], colours: dict[str, str], seed: int, inches: float) -> set[str]:
    """Draw words as outlines where `wordcloud` lays them out, `inches` wide; return those that found room.

    A unit of the layout is 1/300 inch; the smallest font has 5.5 points.
    """
    width, height = round(285 * inches), 540
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if not weights:
        return set()
    cloud = WordCloud(
        font_path=FONT.get_file(),
        width=width,
        height=height,
        prefer_horizontal=1.0,
        relative_scaling=0.5,
        min_font_size=23,
        max_font_size=70,
        margin=12,
        random_state=seed,
    ).generate_from_frequencies(weights)
    for (word, _), size, (top, left), _, _ in cloud.layout_:  # a place is the upper left corner of the word's ink
        outline = TextPath((0, 0), word, size=size, prop=FONT)
        ink = outline.get_extents()
        place = Affine2D().translate(-ink.x0, -ink.y1).scale(1, -1).translate(left, top)
        axis.add_patch(PathPatch(outline.transformed(place), color=colours[word], linewidth=0))
    return {word for (word, _), *_ in cloud.layout_}


def prompt_weights(artifacts: dict[str, Path], method: str, orders: dict[str, list[int]] | None = None) -> pd.DataFrame:
    """Mixture weights of the test prompts, one row a prompt and seed: prompt_id, domain, w0 to wK−1 in head order."""
    frames = []
    for policy, folder in folders(artifacts, "completions", method).items():
        frame = pd.read_parquet(folder / "weights.parquet")
        heads = sum(bool(re.fullmatch(r"w\d+", name)) for name in frame)
        order = orders[policy] if orders else range(heads)
        shown = {f"w{head}": frame[f"w{k}"] for head, k in enumerate(order)}
        frames.append(frame[["prompt_id", "domain"]].assign(**shown, policy=policy))
    return pd.concat(frames, ignore_index=True)


def tasks(table: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """Posterior weights by domain over training, and mixture weights of the test prompts of each domain (mean ± SE)."""
    method, domains = table["rows"][0]["policy"], table["domains"]
    points, window = posterior_curves(table, artifacts, domains)
    heads = points["head"].nunique()
    weights = prompt_weights(artifacts, method, head_order(artifacts, method))
    per_prompt, bars = weights.groupby(["domain", "prompt_id"])[[f"w{head}" for head in range(heads)]].mean(), []
    for head in range(heads):
        for domain in domains:
            mean, se = mean_and_se(per_prompt.loc[domain, f"w{head}"])
            bars.append({"head": head, "x": domain, "y": mean, "se": se, "n": len(per_prompt.loc[domain])})
    bars = pd.DataFrame(bars)
    bars["panel"], bars["series"] = "abcdefgh"[heads], bars["head"].map("Head {}".format)

    figure = Figure(figsize=(WIDTH, 2.1))
    left, right = figure.subfigures(1, 2, width_ratios=(heads, 1.15))
    draw_posteriors(left, points, window)
    axis, width = right.subplots(), 0.8 / heads
    for head, own in bars.groupby("head"):
        place = np.arange(len(domains)) + (head - (heads - 1) / 2) * width
        look = {"color": HEAD_COLOURS[head], "hatch": HEAD_HATCHES[head], "edgecolor": "white", "linewidth": 0}
        axis.bar(place, own["y"], 0.92 * width, label=f"Head {head}", **look)
        axis.errorbar(place, own["y"], own["se"], fmt="none", ecolor="black", elinewidth=0.8, capsize=2, capthick=0.8)
        for x, y, se in zip(place, own["y"], own["se"]):
            label = axis.annotate(
                f"{y:.2f}", (x, y + se), (0, 2), textcoords="offset points", ha="center", fontsize=6.5
            )
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axis.axhline(1 / heads, color=GREY, linewidth=0.6, zorder=0)
    axis.set_xticks(range(len(domains)), [domain.capitalize() for domain in domains])
    axis.set(ylim=(0, 1), ylabel="Mean mixture weight $w_k(x)$", xlabel="Domain of the test prompt")
    axis.tick_params(axis="x", length=0)
    axis.set_title(f"{letter(heads)} Test prompts (mean ± SE)")
    right.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure, pd.concat([points, bars], ignore_index=True)


def confusion_matrix(weights: pd.DataFrame, domains: Sequence[str]) -> tuple[np.ndarray, pd.Series]:
    """Prompts of each domain (rows) by the domain whose expert weighs most (columns), over all seeds: (D, D).

    Expert k stands for domain k. The second value is the share of seeds that is right, of every prompt.
    """
    truth = weights["domain"].map(domains.index).to_numpy()
    chosen = weights[[f"w{k}" for k in range(len(domains))]].to_numpy().argmax(axis=1)
    counts = np.zeros((len(domains), len(domains)), dtype=int)
    np.add.at(counts, (truth, chosen), 1)
    return counts, pd.Series(truth == chosen).groupby(weights["prompt_id"].to_numpy()).mean()


def confusion(table: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """Confusion matrices of two gates on the test prompts, rows as shares with counts, and their difference."""
    domains, shares, right, lines = table["domains"], [], [], []
    figure = Figure(figsize=(WIDTH, 2.3))
    axes = figure.subplots(1, 3)
    for panel, row in enumerate(table["rows"]):
        counts, correct = confusion_matrix(prompt_weights(artifacts, row["policy"]), domains)
        share = counts / counts.sum(axis=1, keepdims=True)
        mean, se = mean_and_se(correct)
        axes[panel].set_title(f"{letter(panel)} {row['name']}\naccuracy {mean:.3f} ± {se:.3f}")
        notes = [[f"{s:.3f}\nn = {n:,}" for s, n in zip(*line)] for line in zip(share, counts)]
        draw_matrix(axes[panel], share, notes, domains, cmap="Greys", vmin=0, vmax=1)
        shares.append(share)
        right.append(correct)
        lines += cells(panel, row["name"], domains, share, mean, se, counts)
    difference = shares[1] - shares[0]
    mean, se = mean_and_se(right[1] - right[0])
    gain = f"{mean:+.3f} ± {se:.3f}".replace("-", "−")
    axes[2].set_title(f"(c) Difference of shares, (b) − (a)\naccuracy {gain}, paired")
    limit = 1.5 * max(np.abs(difference).max(), 0.01)
    notes = [[f"{value:+.3f}".replace("-", "−") for value in line] for line in difference]
    draw_matrix(axes[2], difference, notes, domains, cmap="PuOr", vmin=-limit, vmax=limit)
    axes[0].set_ylabel("Domain of the test prompt")
    axes[1].set_xlabel("Domain of the expert with the largest mixture weight")
    return figure, pd.DataFrame(lines + cells(2, "difference", domains, difference, mean, se))


def cells(panel: int, series: str, domains, share, accuracy: float, se: float, counts=None) -> list[dict]:
    """One row a cell: x is the domain of the chosen expert, y that of the prompt."""
    return [
        {
            "panel": "abcdefgh"[panel],
            "series": series,
            "x": chosen,
            "y": truth,
            "share": share[i, j],
            "prompts": pd.NA if counts is None else counts[i, j],
            "accuracy": accuracy,
            "se": se,
        }
        for i, truth in enumerate(domains)
        for j, chosen in enumerate(domains)
    ]


def draw_matrix(axis: Axes, values: np.ndarray, notes: list[list[str]], domains: Sequence[str], **colours) -> None:
    """Cells in colour with their notes, black on light and white on dark."""
    image = axis.imshow(values, **colours)
    for (i, j), value in np.ndenumerate(values):
        luminance = np.dot(image.cmap(image.norm(value))[:3], (0.2126, 0.7152, 0.0722))
        axis.text(j, i, notes[i][j], ha="center", va="center", color="white" if luminance < 0.5 else "black")
    names = [f"{domain.capitalize()} ({k})" for k, domain in enumerate(domains)]
    axis.set_xticks(range(len(domains)), names)
    axis.set_yticks(range(len(domains)), names, rotation=90, va="center")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(True)


def user_rewards(responsibilities: pd.DataFrame) -> pd.DataFrame:
    """One row a user: user, style (the style), triplets (how many), margin0 to marginK−1, means over the triplets."""
    margins = responsibilities.filter(regex="^margin[0-9]+$")
    users = responsibilities[["user", "style"]].join(margins).groupby(["user", "style"])
    return pd.concat([users.size().rename("triplets"), users.mean()], axis=1).reset_index()


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two of (N, K): places (N, 2) and the shares of variance that they explain, (2,)."""
    pca = PCA(n_components=2, svd_solver="full")
    with threadpool_limits(1):  # the threads change the last bits
        return pca.fit_transform(vectors), pca.explained_variance_ratio_


def user_map(table: dict, artifacts: dict[str, Path]) -> tuple[Figure, pd.DataFrame]:
    """A panel per method, of its first seed: users by their mean reward differences under the K experts, by PCA.

    A reward difference is β (log_ratio⁺ − log_ratio⁻) of an expert on a validation triplet of the user.
    """
    single, lines = len(table["rows"]) == 1, []  # one panel is one column of two
    figure = Figure(figsize=(WIDTH / 2, 3.0) if single else (WIDTH, 2.5))
    axes = figure.subplots(1, len(table["rows"]), squeeze=False)[0]
    for panel, (row, axis) in enumerate(zip(table["rows"], axes)):
        folder = next(iter(folders(artifacts, "policies", row["policy"]).values()))
        users = user_rewards(pd.read_parquet(folder / "responsibilities.parquet"))
        places, explained = principal_components(users.filter(regex="^margin").to_numpy())
        users["x"], users["y"] = places.T
        for style, (colour, _), marker in zip(table["styles"], LABEL_LINES, STYLE_MARKERS):
            own, label = users[users["style"] == style], style.replace("_", " ").capitalize()
            look = {"s": 26, "color": colour, "marker": marker, "linewidths": 0.4, "edgecolors": "white"}
            axis.scatter(own["x"], own["y"], label=label, **look)
        shares = 100 * explained
        axis.set(xlabel=f"PC 1 ({shares[0]:.0f} % of variance)", ylabel=f"PC 2 ({shares[1]:.0f} %)")
        axis.set_aspect("equal", adjustable="datalim")
        axis.locator_params(nbins=5)
        if not single:
            axis.set_title(f"{letter(panel)} {row['name']}")
        users["explained_x"], users["explained_y"] = explained
        lines.append(users.assign(panel="abcdefgh"[panel], method=row["policy"]))
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2 if single else 4, handletextpad=0.2
    )
    numbers = pd.concat(lines, ignore_index=True).rename(columns={"style": "series"})
    first = ["panel", "series", "x", "y", "method", "user", "triplets", "explained_x", "explained_y"]
    return figure, numbers[[*first, *numbers.columns.difference(first)]]
