"""Rewards: three numbers per text, each by a stated formula.

Section 2 of the paper names the rewards and prints their means, but defines none of them; the formulas are ours and
stand in the docstrings of the functions that `@reward` registers. A new reward is one more such function:

    @reward
    def length(texts, tools):
        "Words per text."
        return np.array([len(text.split()) for text in texts], float)
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from mixdpo.errors import UserError
from mixdpo.method.runtime import Runtime

REWARDS: dict[str, Callable] = {}


def reward(function):
    """Register `function(texts, tools) -> float array (len(texts),)` under its own name."""
    REWARDS[function.__name__] = function
    return function


class Tools:
    """What the rewards need: a sentiment classifier and a spaCy pipeline, each a directory in its library's own format.

    Both load at first use. One pass of each over a list of texts serves every reward of that list.
    """

    def __init__(self, classifier: Path, pipeline: Path, device: str = "cpu", processes: int = 1):
        self.classifier, self.pipeline, self.device = Path(classifier), Path(pipeline), device
        self.processes = processes  # of spaCy, at most
        self._last: dict[str, tuple] = {}  # tool → the last texts and its result for them

    @cached_property
    def _nlp(self):
        from mixdpo.stages.parsing import load

        return load(self.pipeline)

    @cached_property
    def _classifier(self):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        model = AutoModelForSequenceClassification.from_pretrained(self.classifier).to(self.device).eval()
        positive = [i for i, label in model.config.id2label.items() if label.upper().startswith("POS")]
        if len(positive) != 1:
            raise UserError(
                f"{self.classifier}: expected one POSITIVE class, found {dict(model.config.id2label)}; "
                "correct id2label in its config.json"
            )
        return AutoTokenizer.from_pretrained(self.classifier), model, int(positive[0])

    def _once(self, tool: Callable, texts: Sequence[str]):
        texts = tuple(texts)
        if self._last.get(tool.__name__, (None,))[0] != texts:
            self._last[tool.__name__] = texts, tool(texts)
        return self._last[tool.__name__][1]

    def docs(self, texts: Sequence[str]) -> list:
        """The parsed texts, one Doc each."""
        return self._once(self._parse, texts)

    def positive(self, texts: Sequence[str]) -> np.ndarray:
        """P(POSITIVE) (len(texts),) in [0, 1], from the first tokens, as many as the classifier has positions."""
        return self._once(self._classify, texts)

    def _parse(self, texts: Sequence[str]) -> list:
        from mixdpo.stages.parsing import parse

        docs = parse(self._nlp, texts, self.processes)
        return list(tqdm(docs, total=len(texts), desc="spaCy", unit="text", mininterval=10))

    def _classify(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        batch_size = 32 if self.device == "cpu" else 512
        tokenizer, model, positive = self._classifier
        limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        order = np.argsort([len(text) for text in texts], kind="stable")
        out = np.empty(len(texts))
        batches = range(0, len(texts), batch_size)
        for start in tqdm(batches, desc="classifier", unit="batch", mininterval=10):
            rows = order[start : start + batch_size]
            batch = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            with torch.inference_mode():
                logits = model(**batch.to(self.device)).logits
            out[rows] = logits.double().softmax(-1)[:, positive].cpu().numpy()
        return out


@reward
def sentiment(texts: Sequence[str], tools: Tools) -> np.ndarray:
    """P(positive | text) by the classifier, in [0, 1]; of a long text, only the first tokens count."""
    return tools.positive(texts)


@reward
def informativeness(texts: Sequence[str], tools: Tools) -> np.ndarray:
    """Named entities and numbers per sentence: see `informativeness_of`."""
    return np.array([informativeness_of(doc) for doc in tools.docs(texts)])


@reward
def grammar(texts: Sequence[str], tools: Tools) -> np.ndarray:
    """Share of words whose attachment English grammar licenses: see `grammar_of`."""
    return np.array([grammar_of(doc) for doc in tools.docs(texts)])


@reward
def sentiment_label(texts: Sequence[str], tools: Tools) -> np.ndarray:
    """1 where the classifier calls the text positive, else 0: `sentiment` without its certainty."""
    return (tools.positive(texts) > 0.5).astype(float)


@reward
def informativeness_per_word(texts: Sequence[str], tools: Tools) -> np.ndarray:
    """Named entities and numbers per 100 words: like `informativeness`, but longer sentences do not raise it."""
    return np.array([100 * facts_of(doc) / max(1, sum(map(is_word, doc))) for doc in tools.docs(texts)])


@reward
def grammatical_sentences(texts: Sequence[str], tools: Tools) -> np.ndarray:
    """Share of sentences with no word that `grammar` faults, in [0, 1]; 0 for a text without words."""
    return np.array([grammatical_sentences_of(doc) for doc in tools.docs(texts)])


def facts_of(doc) -> int:
    """Entity spans + number-like words outside every entity."""
    return len(doc.ents) + sum(token.like_num and not token.ent_type for token in doc)


def informativeness_of(doc) -> float:
    """(entity spans + number-like words outside every entity) / sentences, in [0, inf); 0 for a text without words."""
    sentences = sum(any(map(is_word, sentence)) for sentence in doc.sents)
    return facts_of(doc) / sentences if sentences else 0.0


def is_word(token) -> bool:
    return not (token.is_punct or token.is_space)


def grammar_of(doc) -> float:
    """Share of words whose place and head are both licensed by English grammar; in [0, 1], 0 without words.

    A word is licensed when its attachment is one that `ATTACHMENTS` lists for its label and the next word may follow
    it (`NEXT`). It counts when it and its head are licensed, so a verb without its subject costs the words that
    depend on it too. In a text that stops before a final mark, the last word is licensed, and so is the root of the
    last sentence if that has at most `BARELY_BEGUN` tokens, since the rest may be cut off. The rules need only Penn
    tags, ClearNLP labels and sentence starts, so any English pipeline of spaCy will do.
    """
    good = licensed(doc)
    return sum(good.values()) / len(good) if good else 0.0


def grammatical_sentences_of(doc) -> float:
    """Share of sentences, of those with words, whose words all count for `grammar_of`; 0 for a text without words."""
    good = licensed(doc)
    sentences = [[good[i] for i in range(sentence.start, sentence.end) if i in good] for sentence in doc.sents]
    faultless = [all(words) for words in sentences if words]
    return sum(faultless) / len(faultless) if faultless else 0.0


def licensed(doc) -> dict[int, bool]:
    """For every word of the text, by its place: are it and its head licensed?"""
    words = [token for token in doc if is_word(token)]
    good = {token.i for token in doc if attached(token) and continued(token)}
    last = words[-1] if words else None
    if last is not None and last.i + 1 == len(doc):
        good.add(last.i)
        if len(last.sent) <= BARELY_BEGUN:
            good.add(last.sent.root.i)
    return {word.i: word.i in good and word.head.i in good for word in words}


def attached(token) -> bool:
    """Side, tag, tag of the head and condition are as in `ATTACHMENTS`; other labels are free; "dep" is an error."""
    if token.dep_ not in ATTACHMENTS:
        return token.dep_ != "dep"
    side, tags, head_tags, condition = ATTACHMENTS[token.dep_]
    return (
        (not side or (side == "<") == (token.i < token.head.i))
        and (not tags or token.tag_ in tags)
        and (not head_tags or token.head.tag_ in head_tags)
        and (condition is None or condition(token))
    )


def continued(token) -> bool:
    """The next token of the sentence neither repeats the word nor has a tag that `NEXT` forbids after it."""
    if token.i + 1 == len(token.doc) or token.nbor().is_sent_start:
        return True
    word, after = token.lower_, token.nbor()
    if token.is_alpha and after.lower_ == word and word not in DOUBLED:
        return False
    return after.tag_ not in NEXT.get(word, NEXT.get(token.tag_, ()))


def verb_group(verb) -> list:
    """The verb after its auxiliaries, in order."""
    return [child for child in verb.lefts if child.dep_ in ("aux", "auxpass")] + [verb]


def is_finite(verb) -> bool:
    """The first word of the verb's group carries tense."""
    first = verb_group(verb)[0]
    return first.tag_ in ("MD", "VBD", "VBP", "VBZ") or first.lower_ in VERB_NUMBER


def number_of(subject) -> str:
    """Who the subject is: "1" for I, "s" singular, "p" plural, "" unknown. A relative pronoun takes its noun's
    number."""
    coordinated = [child.lower_ for child in subject.children if child.dep_ in ("cc", "conj")]
    if coordinated:
        return "p" if "and" in coordinated else ""
    if subject.lower_ in ("who", "which", "that") and subject.head.dep_ == "relcl":
        noun = subject.head.head
        return number_of(noun) if noun.i == subject.i - 1 else ""
    return SUBJECT_NUMBER.get(subject.lower_, SUBJECT_NUMBER.get(subject.tag_, ""))


def numbers_with(verb) -> str:
    """The numbers of subject that the first word of the verb's group goes with; "" for any."""
    first = verb_group(verb)[0]
    return VERB_NUMBER.get(first.lower_, VERB_NUMBER.get(first.tag_, ""))


def agrees(subject) -> bool:
    """I am, she is, they are; with a tensed verb never him or them, without tense never he or they."""
    verb = subject.head
    if not is_finite(verb):  # such a clause hangs on another: they saw him go
        return verb.dep_ != "ROOT" and subject.lower_ not in NOMINATIVE
    allowed = numbers_with(verb)
    return subject.lower_ not in OBJECTIVE and (not allowed or number_of(subject) in allowed)


def exists(there) -> bool:
    """There is a thing, there are things."""
    things = [child for child in there.head.rights if child.dep_ in ("attr", "nsubj", "dobj")]
    allowed = numbers_with(there.head)
    return not things or not allowed or number_of(things[0]) in allowed


def governs(auxiliary) -> bool:
    """The next verb of the group has the form that the auxiliary asks for: will see, has seen, is seen, is seeing."""
    group = verb_group(auxiliary.head)
    if auxiliary not in group:  # it stands after its verb, and its side says so
        return True
    word, after = auxiliary.lower_, group[group.index(auxiliary) + 1]
    asked = {
        *(("VB", "VBP") if auxiliary.tag_ in ("MD", "TO") or word in DO else ()),
        *(("VBN", "VBD") if word in HAVE or word in BE else ()),
        *(("VBG",) if word in BE else ()),
    }
    return after.lower_ not in ALWAYS_FINITE and (not asked or after.tag_ in asked)


def predicates(root) -> bool:
    """A subject with a tensed verb, a command or an interjection."""
    if any(child.dep_ in ("nsubj", "nsubjpass", "expl", "csubj") for child in root.children):
        return is_finite(root)
    return root.tag_ in ("VB", "VBP", "UH") and root.lower_ not in ALWAYS_FINITE


def determines(determiner) -> bool:
    """This book, these books, a book, a few books."""
    word, head = determiner.lower_, determiner.head
    if word in ("these", "those"):
        return head.tag_ != "NN"
    if word in ("a", "an"):
        return head.tag_ != "NNS" or head.i > determiner.i + 1
    return word not in ("this", "that") or head.tag_ != "NNS"


def is_object(word) -> bool:
    return word.lower_ not in NOMINATIVE


def is_complete(preposition) -> bool:
    """It has its object, or stands after what it hangs on: the town they live in."""
    return any(preposition.rights) or preposition.i > preposition.head.i


def split(names: str) -> frozenset[str]:
    return frozenset(names.split())


def spread(table: dict) -> dict:
    """The table with one entry per name instead of one per line of names."""
    return {name: value for names, value in table.items() for name in names.split()}


def rule(side: str, tags: str, head_tags: str, condition: Callable | None = None) -> tuple:
    return side, split(tags), split(head_tags), condition


NOUN = "NN NNS NNP NNPS"
NOMINAL = f"{NOUN} PRP PRP$ CD DT PDT WP WDT EX VBG JJ JJR JJS $ FW"
VERB = "VB VBD VBG VBN VBP VBZ MD"
PREDICATIVE = "JJ JJR JJS VBN VBG"

# label: the side of its head on which the word stands ("<" before, ">" after), its tags, its head's tags and perhaps a
# condition; "" leaves it open.
ATTACHMENTS = {
    "ROOT": rule("", "", "", predicates),
    "nsubj": rule("", NOMINAL, VERB, agrees),
    "nsubjpass": rule("<", NOMINAL, "VBN VBD", agrees),
    "expl": rule("", "EX PRP", VERB, exists),
    "aux": rule("<", f"{VERB} TO", VERB, governs),
    "auxpass": rule("<", VERB, "VBN VBD", governs),
    "dobj": rule("", NOMINAL, VERB, is_object),
    "dative": rule(">", f"{NOMINAL} IN", VERB, is_object),
    "attr": rule("", NOMINAL, VERB),
    "acomp": rule("", f"{PREDICATIVE} RB IN", VERB),
    "prt": rule("", "RP IN RB", VERB),
    "agent": rule(">", "IN", "VBN VBD"),
    "det": rule("<", "DT PDT WDT WP$ PRP$", f"{NOUN} CD JJ JJR JJS VBG $", determines),
    "predet": rule("<", "DT PDT RB", NOMINAL),
    "nummod": rule("<", "CD", f"{NOUN} CD $ SYM"),
    "amod": rule("<", f"{PREDICATIVE} {NOUN} RB CD", f"{NOUN} VBG CD JJ"),
    "compound": rule("<", f"{NOUN} JJ VBG CD FW SYM", f"{NOUN} CD"),
    "poss": rule("<", f"PRP$ WP$ {NOUN}", f"{NOUN} VBG CD JJ"),
    "case": rule(">", "POS", NOUN),
    "prep": rule("", "IN TO VBG RB", "", is_complete),
    "pobj": rule(">", f"{NOMINAL} RB", "IN TO VBG RB RP", is_object),
    "pcomp": rule(">", f"{VERB} IN RB WRB JJ", "IN TO VBG RB"),
    "cc": rule("", "CC IN RB", ""),
    "conj": rule(">", "", ""),
    "mark": rule("<", "IN TO WDT WRB", f"{VERB} JJ"),
    "relcl": rule(">", VERB, f"{NOUN} PRP DT CD WP JJ VB VBZ VBD VBP RB", is_finite),
    "acl": rule(">", VERB, f"{NOUN} PRP DT CD JJ"),
    "advcl": rule("", VERB, ""),
    "ccomp": rule("", VERB, ""),
    "xcomp": rule(">", f"{VERB} JJ", f"{VERB} JJ"),
    "advmod": rule("", "RB RBR RBS WRB IN JJ RP DT", ""),
}
# word, or else tag: the tags that may not come next.
NEXT = spread(
    {
        "a an the every my your our their its PRP$": split(
            "IN VBZ VBP VBD MD TO DT PRP PRP$ CC WDT WP WRB EX RP POS . ,"
        ),
        "TO": split("VBZ VBD MD TO CC . ,"),
        "MD": split("VBZ VBD MD TO JJ . ,"),
        "CC": split("CC ."),
    }
)
DOUBLED = split("had that very so")  # may stand twice in a row
BARELY_BEGUN = 5

NOMINATIVE = split("i he she we they")
OBJECTIVE = split("me him us them")
# word, or else tag: the number of a subject. Words of quantity and collectives take either verb.
SUBJECT_NUMBER = spread(
    {
        "i": "1",
        "he she it this that one someone everyone nobody everything nothing something NN NNP": "s",
        "we you they these those NNS": "p",
        "lot lots number couple majority rest bunch pair half none cast crew": "",
    }
)
# word, or else tag, of a tensed verb: the numbers of subject that it goes with.
VERB_NUMBER = spread(
    {"am 'm": "1", "is has does VBZ": "s", "was": "1s", "are 're were": "p", "have 've do VBP": "1p", "'s 'd 'll": ""}
)
ALWAYS_FINITE = split("is am are was were has does did")
BE = split("be been being is am are was were 's 're 'm get gets got getting")
HAVE = split("have has had having 've 's 'd")
DO = split("do does did")


def score(texts: Sequence[str], names: Sequence[str], tools: Tools) -> pd.DataFrame:
    """One row for each text, one float column for each reward. Equal texts are scored once, so that they always tie."""
    unknown = [name for name in names if name not in REWARDS]
    if unknown:
        raise UserError(f"unknown reward {', '.join(unknown)}: expected some of {', '.join(REWARDS)}")
    unique = list(dict.fromkeys(texts))
    table = pd.DataFrame({name: REWARDS[name](unique, tools) for name in names}, index=unique, dtype=float)
    for name in names:
        if not np.isfinite(table[name]).all():
            text = table.index[~np.isfinite(table[name])][0]
            raise UserError(f"reward {name}: expected a finite number, found {table[name][text]} for {text!r}; mend it")
    return table.loc[list(texts)].reset_index(drop=True)


def rewards(
    out: Path, spec: dict, *, runtime: Runtime, resume: Path, completions: Path, classifier: Path, pipeline: Path
) -> None:
    """Score prompt + completion of every row of completions/completions.parquet by each reward in spec["names"].

    Writes out/scores.parquet: the same rows in the same order, prompt_id, sample, decoding if the rows have one, and
    one column per reward.
    """
    rows = pd.read_parquet(completions / "completions.parquet")
    tools = Tools(classifier / "model", pipeline / "model", runtime.device, runtime.threads)
    scores = score(rows["prompt"] + rows["completion"], spec["names"], tools)
    keys = rows[[c for c in ("prompt_id", "sample", "decoding") if c in rows]].reset_index(drop=True)
    pd.concat([keys, scores], axis=1).to_parquet(out / "scores.parquet", index=False)
