"""Judges of one interface: which of two completions of an instruction is better by a style.

A judge is built from its section of the configuration and called with a list of comparisons; it gives one judgement for
each, in their order. A new judge is one more class that `@judge` registers under its name in lower case:

    @judge
    class Longer:
        "The longer text wins."
        def __init__(self, section, device="cpu"): ...
        def __call__(self, comparisons):
            return [Judgement("first" if len(c.first) > len(c.second) else "second", "", 0) for c in comparisons]
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import requests
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_exponential
from tqdm import tqdm

from mixdpo.errors import UserError
from mixdpo.provenance import durable

WINNERS = {"a": "first", "b": "second", "tie": "tie"}
PASSING = {408, 409, 425, 429}  # statuses of an endpoint that may answer later, as all from 500 on
OF_THE_TEXT = {400, 413, 422}  # statuses of an endpoint that cannot answer this text
LONGEST_WAIT = 60  # seconds between two attempts, unless the endpoint asks for more
JUDGES: dict[str, Callable] = {}
Scores = list[dict[str, float]]
"""For each text its score by style."""


@dataclass(frozen=True)
class Comparison:
    """Two completions of an instruction, to be compared by a style, one of the rated aspects."""

    instruction: str
    style: str
    first: str
    second: str


@dataclass(frozen=True)
class Judgement:
    """`choice` is first, second, tie or failed; `answer` is the judge's last, unchanged; `error` says why it failed.

    `attempts` counts the requests that were sent for it, in this run or in the run that left it in the cache.
    """

    choice: str
    answer: str
    attempts: int
    error: str = ""


def judge(kind):
    """Register a class under its name in lower case."""
    JUDGES[kind.__name__.lower()] = kind
    return kind


def build(spec: dict, device: str = "cpu") -> Callable[[Sequence[Comparison]], list[Judgement]]:
    """The judge that `spec["kind"]` names, from the section of that name."""
    if spec["kind"] not in JUDGES:
        raise UserError(f"judge.kind: expected one of {', '.join(JUDGES)}, found {spec['kind']}; name one of them")
    return JUDGES[spec["kind"]](spec[spec["kind"]], device)


@judge
class Rating:
    """The completion with the higher score wins; equal scores tie. Equal texts are scored once, so that they tie.

    `scorer` is embedded, by the rules of the embedded world; model, by the reward model in the folder `path`; or
    classifier, by what the stage rating_classifier wrote there.
    """

    def __init__(self, section: dict, device: str = "cpu"):
        if section["scorer"] not in SCORERS:
            known, found = ", ".join(SCORERS), section["scorer"]
            raise UserError(f"judge.rating.scorer: expected one of {known}, found {found}; name one of them")
        self.section, self.device = section, device

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Judgement]:
        texts = list(dict.fromkeys((c.instruction, text) for c in comparisons for text in (c.first, c.second)))
        styles, scorer = list(dict.fromkeys(c.style for c in comparisons)), SCORERS[self.section["scorer"]]
        scores = dict(zip(texts, scorer(texts, styles, self.section, self.device), strict=True))
        judgements = []
        for c in comparisons:
            first, second = (float(scores[c.instruction, text][c.style]) for text in (c.first, c.second))
            if not (math.isfinite(first) and math.isfinite(second)):
                raise UserError(
                    f"judge.rating: expected finite scores of {c.style}, found {first} and {second} for "
                    f"{c.instruction[:60]!r}; mend the scorer or choose another"
                )
            choice = "tie" if first == second else "first" if first > second else "second"
            judgements.append(Judgement(choice, json.dumps([first, second]), 0))
        return judgements


def embedded_scores(texts: Sequence[tuple[str, str]], styles: list[str], section: dict, device: str) -> Scores:
    """Scores by style of (instruction, response) pairs, by the rules of the embedded world."""
    from mixdpo.world.feedback import ratings

    return [ratings(*pair) for pair in tqdm(texts, desc="ratings", unit="text", mininterval=10)]


def model_scores(texts: Sequence[tuple[str, str]], styles: list[str], section: dict, device: str) -> Scores:
    """Scores by style of (instruction, response) pairs: logits of a classifier that names the styles in id2label.

    The score of a classifier with one output counts for every style. Its tokenizer joins the two
    texts, or writes them as a chat where it has a template for that. Texts that are too long are cut at the end.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = section["path"]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        how = {"dtype": torch.float32, "output_loading_info": True}  # in bf16 different texts would tie
        model, loaded = AutoModelForSequenceClassification.from_pretrained(folder, **how)
    except (OSError, ValueError) as error:
        raise UserError(
            f"judge.rating.path: expected a reward model, found none that loads in {folder} ({_line(error)}); "
            "name a folder that AutoModelForSequenceClassification loads"
        ) from error
    labels = model.config.id2label
    columns = {t: 0 if len(labels) == 1 else next((i for i, name in labels.items() if name == t), None) for t in styles}
    if None in columns.values() or loaded["missing_keys"]:  # transformers would initialise a missing output at random
        found = f"outputs {list(labels.values())}, untrained weights: {sorted(loaded['missing_keys']) or 'none'}"
        raise UserError(
            f"judge.rating.path: expected a trained model with one output or outputs {', '.join(styles)} in {folder}, "
            f"found {found}; name another folder or correct id2label in its config.json"
        )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    positions = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    limit, model, scores = min(tokenizer.model_max_length, positions), model.to(device).eval(), [None] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: sum(map(len, texts[i])))
    for start in tqdm(range(0, len(order), 32), desc="reward model", unit="batch", mininterval=10):
        rows = order[start : start + 32]
        joined = [list(column) for column in zip(*(texts[i] for i in rows))]
        if tokenizer.chat_template:
            turns = [zip(("user", "assistant"), texts[i]) for i in rows]
            chats = [[{"role": role, "content": text} for role, text in turn] for turn in turns]
            joined = [[tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]]
        special = {"add_special_tokens": not tokenizer.chat_template}  # a template writes its own special tokens
        batch = tokenizer(*joined, padding=True, truncation=True, max_length=limit, return_tensors="pt", **special)
        with torch.inference_mode():
            logits = model(**batch.to(device)).logits.double().cpu().numpy()
        for i, values in zip(rows, logits):
            scores[i] = {style: float(values[column]) for style, column in columns.items()}
    return scores


def classifier_scores(texts: Sequence[tuple[str, str]], styles: list[str], section: dict, device: str) -> Scores:
    """Scores by style of (instruction, response) pairs: log-odds by the classifiers that the folder `path` holds."""
    from mixdpo.stages.rating_classifier import scores

    given = scores(texts, styles, Path(section["path"]))
    return [dict(zip(styles, values)) for values in zip(*(given[style].tolist() for style in styles))]


SCORERS = {"embedded": embedded_scores, "model": model_scores, "classifier": classifier_scores}


class Refused(Exception):
    """The endpoint will not answer this request: its text is too long, or filtered."""


class Again(Exception):
    """No usable answer this time; the next attempt should wait `wait` seconds."""

    def __init__(self, reason: str, wait: float = 0):
        super().__init__(reason)
        self.wait = wait


@judge
class LLM:
    """A language model behind an OpenAI-compatible endpoint, asked once for each distinct prompt.

    Each answer is written to the folder `cache` as soon as it arrives, one JSON file for each request, and is never
    asked for again. Failures are not kept. Raises `UserError` when more than `max_failed_share` of the distinct
    requests fail (answers from the cache are counted), or when the first 2 × `parallel` all fail and none was answered
    before.
    """

    def __init__(self, section: dict, device: str = "cpu"):
        missing = [name for name in Comparison.__annotations__ if f"{{{name}}}" not in section["prompt"]]
        if missing:
            raise UserError(f"judge.llm.prompt: expected {{{missing[0]}}} in the template, found none; add it")
        self.section, self.url = section, section["endpoint"].rstrip("/") + "/chat/completions"
        self.cache = Path(section["cache"])

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Judgement]:
        requested = [self._request(c) for c in comparisons]
        judgements = {request: self._cached(request) for request in dict.fromkeys(requested)}
        waiting = [request for request, judgement in judgements.items() if judgement is None]
        headers, stop, failed = self._headers() if waiting else {}, Event(), 0
        allowed, first = self.section["max_failed_share"] * len(judgements), 2 * self.section["parallel"]
        first = min(first, len(waiting)) if len(waiting) == len(judgements) else math.inf
        pool = ThreadPoolExecutor(self.section["parallel"])
        try:
            asked = {pool.submit(self._ask, request, headers, stop): request for request in waiting}
            done = tqdm(as_completed(asked), total=len(waiting), desc="judge", unit="request", mininterval=2)
            for number, answer in enumerate(done, 1):
                judgement = judgements[asked[answer]] = answer.result()
                failed += judgement.choice == "failed"
                if failed > allowed or failed == number == first:
                    raise UserError(
                        f"judge.llm: expected answers to all but {allowed:g} of {len(judgements)} requests to "
                        f"{self.url}, found {failed} of the first {number} failed, the last with: {judgement.error}; "
                        f"the answers so far are kept in {self.cache}: mend the judge or raise "
                        "judge.llm.max_failed_share, run again"
                    )
        finally:
            stop.set()  # no further attempts; answers that are under way still reach the cache
            pool.shutdown(cancel_futures=True)
        return [judgements[request] for request in requested]

    def _request(self, comparison: Comparison) -> str:
        """The body of the request. The template is filled in one pass, so other braces stay as they are."""
        names = "|".join(Comparison.__annotations__)
        prompt = re.sub(rf"{{({names})}}", lambda m: getattr(comparison, m[1]), self.section["prompt"])
        settings = {name: self.section[name] for name in ("model", "temperature", "max_tokens")}
        return json.dumps(settings | {"messages": [{"role": "user", "content": prompt}]}, sort_keys=True)

    def _headers(self) -> dict[str, str]:
        headers, name = {"Content-Type": "application/json"}, self.section.get("key_variable")
        if not name:
            return headers
        key = os.environ.get(name, "").strip()
        if not key:
            raise UserError(
                f"judge.llm.key_variable: expected the key of {self.url} in the environment variable {name}, found "
                f"nothing; export {name}=… or, for a server without keys, remove key_variable"
            )
        return headers | {"Authorization": f"Bearer {key}"}

    def _file(self, request: str) -> Path:
        digest = hashlib.sha256(f"{self.url} {request}".encode()).hexdigest()
        return self.cache / f"{digest}.json"

    def _cached(self, request: str) -> Judgement | None:
        try:
            kept = json.loads(self._file(request).read_text())
            return Judgement(WINNERS[kept["winner"]], kept["answers"][-1], kept["attempts"])
        except (FileNotFoundError, ValueError, LookupError, TypeError):  # a damaged file: the question is asked again
            return None

    def _ask(self, request: str, headers: dict, stop: Event) -> Judgement:
        answers = []

        def once() -> str:
            answers.append(self._answer(request, headers))
            return winner_in(answers[-1])

        backoff = wait_exponential(multiplier=self.section["first_wait"], max=LONGEST_WAIT)
        retrying = Retrying(
            retry=retry_if_exception_type(Again),
            stop=stop_after_attempt(self.section["attempts"]) | stop_when_event_set(stop),
            wait=lambda state: max(backoff(state), state.outcome.exception().wait),
            sleep=sleep_using_event(stop),
        )
        try:
            winner = retrying(once)
        except RetryError as failure:
            last = failure.last_attempt
            return Judgement("failed", answers[-1] if answers else "", last.attempt_number, _line(last.exception()))
        except Refused as refusal:
            return Judgement("failed", "", retrying.statistics["attempt_number"], _line(refusal))
        attempts, file = retrying.statistics["attempt_number"], self._file(request)
        kept = {"request": json.loads(request), "answers": answers, "winner": winner, "attempts": attempts}
        file.parent.mkdir(parents=True, exist_ok=True)
        staged = file.with_suffix(f".{os.getpid()}.tmp")  # another run may share the cache
        staged.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
        durable.replace(staged, file)
        return Judgement(WINNERS[winner], answers[-1], attempts)

    def _answer(self, request: str, headers: dict) -> str:
        """The text of one answer; `Again` if there is none this time, `Refused` if there will be none to this request,
        `UserError` if there will be none at all."""
        try:
            response = requests.post(self.url, request.encode(), headers=headers, timeout=self.section["timeout"])
        except ValueError as error:  # of the address or a header; its text may hold the key
            raise UserError(
                f"judge.llm.endpoint: expected an address such as http://localhost:8000/v1 and a key of one line, "
                f"found {type(error).__name__} for {self.url}; correct endpoint or the variable that key_variable names"
            ) from None
        except requests.RequestException as error:
            raise Again(f"{type(error).__name__}: {error}") from error
        found = f"status {response.status_code}: {_line(response.text) or 'nothing'}"
        if response.status_code in PASSING or response.status_code >= 500:
            after = response.headers.get("Retry-After", "")
            raise Again(found, float(after) if re.fullmatch(r"\d+(\.\d+)?", after) else 0)
        if response.status_code in OF_THE_TEXT:
            raise Refused(found)
        if response.status_code >= 400:
            raise UserError(
                f"judge.llm: expected an answer of {self.url}, found {found}; correct endpoint, model, key_variable or "
                f"what the status names and run again: the answers so far are kept in {self.cache}"
            )
        try:
            return str(response.json()["choices"][0]["message"]["content"])
        except (ValueError, LookupError, TypeError):
            raise Again(f"expected a chat completion, found {found}") from None


def winner_in(answer: str) -> str:
    """a, b or tie: what the last JSON object with the key winner says; `Again` if that is none of them."""
    winner, decoder = None, json.JSONDecoder()
    for brace in re.finditer(r"{", answer):  # the object may stand in a code fence or after thoughts
        try:
            winner = decoder.raw_decode(answer, brace.start())[0].get("winner", winner)
        except ValueError:
            continue
    if str(winner).strip().lower() not in WINNERS:
        raise Again(f'expected JSON {{"winner": "A"|"B"|"tie"}}, found {_line(answer) or "nothing"}')
    return winner.strip().lower()


def _line(text: object) -> str:
    """The start of a text, or of an error's, in one line."""
    return " ".join(str(text).split())[:200]
