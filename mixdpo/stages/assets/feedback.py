"""Rated responses to instructions, from rows in UltraFeedback's schema, in a local file or on the hub."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pyarrow import ArrowInvalid

from mixdpo.data.feedback import DOMAIN, columns
from mixdpo.errors import UserError
from mixdpo.method.runtime import Runtime
from mixdpo.stages.assets import hub


def read_file(path: Path) -> list[dict]:
    """The rows of a parquet file, or of a jsonl file (by its name)."""
    if path.suffix == ".jsonl":
        lines = path.read_bytes().splitlines()
        return [_parsed(line, f"{path}: row {number}") for number, line in enumerate(lines) if line.strip()]
    try:
        return pq.read_table(path).to_pylist()
    except (ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: expected a parquet or .jsonl file, found: {str(error).splitlines()[0]}; replace the file"
        ) from None


def _parsed(line: bytes, where: str) -> dict:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: expected JSON, found: {error}; correct the file") from None
    return _expect(row, dict, "an object", where)


def _expect(value, kind: type, name: str, where: str):
    if not isinstance(value, kind):
        raise UserError(f"{where}: expected {name}, found {str(value)[:80]!r}; correct the data")
    return value


def rating(annotation: dict | None, where: str) -> float | None:
    """The `Rating` of an annotation, in [1, 5]; None if it is N/A or missing."""
    found = _expect(annotation or {}, dict, "an object as annotation", where).get("Rating")
    if found in (None, "N/A"):
        return None
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = float("nan")
    if not 1 <= value <= 5:
        raise UserError(f"{where}: expected a rating from 1 to 5 or N/A, found {found!r}; correct the data")
    return value


def as_feedback(rows: list[dict], entry: dict, where: str) -> tuple[pd.DataFrame, dict]:
    """Rows of UltraFeedback as rows with the `columns` of the entry's `aspects`; and what was read, dropped and kept.

    `test_share` of the kept instructions, drawn by the entry's `seed`, are test and the rest train. Rows are numbered
    from 0. A repeated instruction is dropped with its responses; then responses that are blank or lack a rating; then
    instructions with fewer than two responses left.
    """
    aspects, counts, seen, known, kept = entry["aspects"], Counter(), set(), set(), []
    for number, row in enumerate(rows):
        at = f"{where}: row {number}"
        if missing := {"instruction", "completions"} - set(row):
            raise UserError(f"{at}: expected the column {min(missing)}, found {', '.join(row)}; correct the data")
        instruction = _expect(row["instruction"], str, "a string as instruction", at).strip()
        completions = _expect([] if row["completions"] is None else row["completions"], list, "a list of responses", at)
        counts += Counter(instructions=1, responses=len(completions))
        if instruction in seen:
            counts["duplicate_instructions"] += 1
            continue
        seen.add(instruction)
        rated = []
        for completion in completions:
            response = _expect(completion, dict, "an object as response", at).get("response")
            annotations = _expect(completion.get("annotations") or {}, dict, "an object as annotations", at)
            known |= {aspect for aspect, annotation in annotations.items() if annotation}
            ratings = [rating(annotations.get(aspect), f"{at}, {aspect}") for aspect in aspects]
            if not _expect(response, str, "a string as response", at).strip():
                counts["blank_responses"] += 1
            elif None in ratings:
                counts["unrated_responses"] += 1
            else:
                rated.append((instruction, response.strip(), completion.get("model"), *ratings))
        if len(rated) < 2:
            counts["too_few_responses"] += 1
        else:
            kept.append(rated)
    if lacking := [aspect for aspect in aspects if aspect not in known]:
        found = ", ".join(sorted(known)) or "none"
        raise UserError(
            f"{where}: expected annotations of {', '.join(lacking)}, found {found}; correct the data or "
            "assets.feedback.aspects"
        )
    if not kept:
        raise UserError(
            f"{where}: expected an instruction with two rated responses, found {dict(counts)}; correct the data"
        )
    is_test = np.random.default_rng(entry["seed"]).permutation(len(kept)) < round(entry["test_share"] * len(kept))
    frame = pd.DataFrame(
        [
            (i, *response, "test" if is_test[i] else "train")
            for i, responses in enumerate(kept)
            for response in responses
        ],
        columns=columns(aspects),
    )
    by_split = frame.groupby("split")["prompt_id"].agg(instructions="nunique", responses="size")
    names = ["instructions", "responses", "duplicate_instructions", "blank_responses", "unrated_responses"]
    read = {name: counts[name] for name in [*names, "too_few_responses"]}
    return frame, read | {"kept": {split: dict(row) for split, row in by_split.to_dict("index").items()}}


def write(out: Path, rows: list[dict], entry: dict, where: str) -> None:
    """Write `feedback.parquet` (see `mixdpo.data.feedback.columns`), `counts.json`, and `reviews.parquet`.

    That is the form in which models are trained on texts: every instruction in the entry's `template` and a response.
    """
    frame, counts = as_feedback(rows, entry, where)
    frame.to_parquet(out / "feedback.parquet", index=False)
    prompts = [entry["template"].format(instruction=instruction) for instruction in frame["instruction"]]
    texts = {"id": frame.index.astype(str), "text": prompts + frame["response"], "label": pd.NA, "rating": pd.NA}
    corpus = pd.DataFrame(texts | {"domain": DOMAIN, "split": frame["split"]})
    corpus.astype({"label": "Int64", "rating": "Float64"}).to_parquet(out / "reviews.parquet", index=False)
    (out / "counts.json").write_text(json.dumps(counts, indent=2, sort_keys=True))


def feedback(out: Path, spec: dict, *, runtime: Runtime, resume: Path, **files: Path) -> None:
    """Write what `write` says, from `files["file"]` or a hub dataset."""
    if spec["source"] == "local":
        write(out, read_file(Path(files["file"])), spec, str(files["file"]))
        return
    try:
        frame = hub.read_dataset(spec)
    except UserError as error:  # the hub's reader names the section of the reviews
        raise UserError(str(error).replace("assets.reviews", "assets.feedback")) from error
    write(out, frame.to_dict("records"), spec, spec["repository"])
