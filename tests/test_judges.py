"""Both orders are asked, bias cancels, answers are kept; a local endpoint that misbehaves by script."""

import json
import re
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from mixdpo.errors import UserError
from mixdpo.stages import judges
from mixdpo.stages.judgements import by_length, decoded, judgements, pair_scores
from mixdpo.stages.judges import Comparison, build, winner_in
from mixdpo.world.feedback import ASPECTS, ratings

PROMPT = 'By {style}: {instruction}\nA: {first}\nB: {second}\nSay {"winner": "A"|"B"|"tie"}.'


class Endpoint:
    """An OpenAI-compatible server; `script(prompt, number)` gives the answer's text, or what goes wrong.

    What goes wrong: a number, seconds of silence; None, a closed connection; (status, headers, body).
    """

    def __init__(self):
        self.script, self.prompts, self.headers, self.times, lock = None, [], [], [], Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    endpoint.prompts.append(body["messages"][0]["content"])
                    endpoint.headers.append(self.headers)
                    endpoint.times.append(time.monotonic())
                    answer = endpoint.script(endpoint.prompts[-1], len(endpoint.prompts))
                if answer is None:
                    return
                if isinstance(answer, float):
                    time.sleep(answer)
                    return
                if isinstance(answer, str):
                    answer = 200, {}, json.dumps({"choices": [{"message": {"content": answer}}]})
                status, headers, text = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


def says(winner: str) -> str:
    return json.dumps({"winner": winner})


def longer(prompt: str, _number: int) -> str:
    a, b = re.search(r"A: (.*)\nB: (.*)\n", prompt).groups()
    return says("A" if len(a) > len(b) else "B" if len(b) > len(a) else "tie")


@pytest.fixture
def section(endpoint, tmp_path):
    return {
        "endpoint": endpoint.url,
        "model": "stub",
        "prompt": PROMPT,
        "key_variable": None,
        "temperature": 0,
        "max_tokens": 50,
        "timeout": 5,
        "attempts": 3,
        "first_wait": 0.01,
        "parallel": 1,
        "max_failed_share": 0,
        "cache": str(tmp_path / "cache"),
    }


def ask(section, *texts: tuple[str, str]):
    comparisons = [Comparison("Why?", "honesty", *pair) for pair in texts]
    return build({"kind": "llm", "llm": section})(comparisons)


MANY = [(f"text {i}", "x" * (i % 3 * 5)) for i in range(12)]  # all prompts differ


def test_answers_are_read_wherever_they_stand():
    assert winner_in('{"winner": "A"}') == winner_in('```json\n{"why": {}, "winner": "a"}\n```') == "a"
    assert winner_in('{not JSON} {"winner": "A"} no: {"winner": "B", "sure": true} {}') == "b"
    for answer in "A wins", '{"winner": "C"}', '{"winner": ["A"]}', "{}", "", "None":
        with pytest.raises(judges.Again, match="expected JSON"):
            winner_in(answer)


def test_template_and_body_arrive_as_written(endpoint, section):
    endpoint.script = longer
    first, second = ask(section, ("{second} {style}", "b"), ("a", "äh \\1 {"))
    assert (first.choice, second.choice) == ("first", "second")
    said = 'Say {"winner": "A"|"B"|"tie"}.'
    assert endpoint.prompts[0] == f"By honesty: Why?\nA: {{second}} {{style}}\nB: b\n{said}"
    assert endpoint.prompts[1] == f"By honesty: Why?\nA: a\nB: äh \\1 {{\n{said}"
    with pytest.raises(UserError, match=r"expected \{second\} in the template"):
        ask(section | {"prompt": "{instruction} {style} {first}"}, ("a", "b"))


FAULTS = {
    "silence": 0.4,
    "busy": (429, {}, "slow down"),
    "too slow": (408, {}, "timeout"),
    "broken": (500, {}, "oh\nno"),
    "no JSON": "I like A.",
    "unknown winner": says("C"),
    "no content": (200, {}, '{"choices": []}'),
    "not even JSON": (200, {}, "<html>"),
    "closed": None,
    "cut off": (200, {"Content-Length": "500"}, '{"choices"'),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_tried_again_and_counted(endpoint, section, fault):
    endpoint.script = lambda prompt, number: fault if number == 1 else says("B")
    section |= {"timeout": 0.1 if isinstance(fault, float) else 5}
    assert [(v.choice, v.attempts, v.error) for v in ask(section, ("a", "b"))] == [("second", 2, "")]
    assert len(endpoint.prompts) == 2


def test_back_off_doubles_and_honours_retry_after(endpoint, section):
    answers = iter([(500, {}, ""), (500, {}, ""), (429, {"Retry-After": "1"}, ""), says("tie")])
    endpoint.script = lambda prompt, number: next(answers)
    (judgement,) = ask(section | {"attempts": 4, "first_wait": 0.1}, ("a", "b"))
    assert (judgement.choice, judgement.attempts) == ("tie", 4)
    waits = np.diff(endpoint.times)
    assert 0.1 <= waits[0] < 0.2 <= waits[1] < 0.4 and waits[2] >= 1


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_is_one_line_at_once(endpoint, section, status):
    def script(prompt: str, number: int) -> str | tuple:
        time.sleep(0.5 * (number > 2))  # so that a busy machine notices the refusal
        return says("A") if number == 1 else (status, {}, "not\n you")

    endpoint.script = script
    with pytest.raises(UserError, match=f"{endpoint.url}.*status {status}: not you") as caught:
        ask(section, *MANY)
    assert "\n" not in str(caught.value)
    assert len(endpoint.prompts) <= 3  # one answer, the refusal, perhaps one that was on its way


def test_keys(endpoint, section, monkeypatch):
    endpoint.script = longer
    monkeypatch.setenv("JUDGE_KEY", " ")
    with pytest.raises(UserError, match="environment variable JUDGE_KEY, found nothing; export JUDGE_KEY=") as caught:
        ask(section | {"key_variable": "JUDGE_KEY"}, ("a", "b"))
    assert "\n" not in str(caught.value) and not endpoint.prompts
    ask(section, ("a", "b"))
    monkeypatch.setenv("JUDGE_KEY", "secret\n")
    ask(section | {"key_variable": "JUDGE_KEY"}, ("a", "c"))
    assert [headers["Authorization"] for headers in endpoint.headers] == [None, "Bearer secret"]
    monkeypatch.setenv("JUDGE_KEY", "sec\nret")
    with pytest.raises(UserError, match="InvalidHeader") as caught:
        ask(section | {"key_variable": "JUDGE_KEY"}, ("a", "d"))
    assert "sec" not in str(caught.value)


def test_an_endpoint_that_is_no_address_is_one_line(section):
    with pytest.raises(UserError, match=r"judge\.llm\.endpoint: .* found MissingSchema for localhost/chat"):
        ask(section | {"endpoint": "localhost/"}, ("a", "b"))


def test_what_was_answered_is_not_asked_again(endpoint, section):
    endpoint.script = longer
    before = ask(section, *MANY, MANY[0])
    assert len(endpoint.prompts) == 12  # a repeated comparison is one request
    assert ask(section, *MANY, MANY[0]) == before and len(endpoint.prompts) == 12
    files = sorted(Path(section["cache"]).iterdir())
    assert len(files) == 12 and {"request", "answers", "winner", "attempts"} == set(json.loads(files[0].read_text()))
    elsewhere = {"endpoint": endpoint.url.replace("v1", "v2")}
    for change in {"model": "other"}, {"temperature": 1}, {"max_tokens": 51}, {"prompt": PROMPT + " "}, elsewhere:
        asked = len(endpoint.prompts)
        ask(section | change, MANY[0])
        assert len(endpoint.prompts) == asked + 1, change
    files[0].write_text("spoiled")
    assert ask(section, *MANY, MANY[0]) == before and len(endpoint.prompts) == 18


def test_a_killed_run_asks_only_for_the_rest(endpoint, section):
    code = "import json, sys; from mixdpo.stages.judges import *; section, texts = json.loads(sys.argv[1]); "
    code += "build({'kind': 'llm', 'llm': section})([Comparison('Why?', 'honesty', *pair) for pair in texts])"
    command = [sys.executable, "-c", code, json.dumps([section, MANY])]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def script(prompt, number):
        if number == 6:
            process.kill()
            return None
        return longer(prompt, number)

    endpoint.script = script
    assert process.wait(60) == -signal.SIGKILL and len(endpoint.prompts) == 6
    killed, endpoint.prompts[:], endpoint.script = endpoint.prompts[:5], [], longer
    assert len(ask(section, *MANY)) == 12
    assert len(endpoint.prompts) == 7 and not set(killed) & set(endpoint.prompts)


def test_failures_are_counted_and_not_kept(endpoint, section):
    endpoint.script = lambda prompt, number: "no idea" if "text 4" in prompt else longer(prompt, number)
    given = ask(section | {"max_failed_share": 0.1}, *MANY)
    assert [v.choice for v in given].count("failed") == 1
    assert (given[4].choice, given[4].answer, given[4].attempts) == ("failed", "no idea", 3)
    assert "expected JSON" in given[4].error and len(list(Path(section["cache"]).iterdir())) == 11
    with pytest.raises(UserError, match=r"all but 0 of 12 requests .* found 1 of the first 1 failed"):
        ask(section, *MANY)  # the answers of the cache count among the 12
    endpoint.script, endpoint.prompts[:] = longer, []
    assert "failed" not in {v.choice for v in ask(section, *MANY)} and len(endpoint.prompts) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_text_that_the_endpoint_refuses_is_one_failure(endpoint, section, status):
    """A filter, or too long a prompt: it is asked once a run, and the others have their judgements."""
    endpoint.script = lambda prompt, number: (status, {}, "no") if "text 4" in prompt else longer(prompt, number)
    given = ask(section | {"max_failed_share": 0.1}, *MANY)
    assert (given[4].choice, given[4].attempts, given[4].error) == ("failed", 1, f"status {status}: no")
    assert [v.choice for v in given].count("failed") == 1 and len(endpoint.prompts) == 12
    endpoint.script = lambda prompt, number: (status, {}, "no")
    with pytest.raises(UserError, match=f"first . failed, the last with: status {status}: no"):
        ask(section | {"model": "none of these"}, *MANY)


def test_a_failed_run_keeps_its_answers(endpoint, section):
    endpoint.script = lambda prompt, number: longer(prompt, number) if number <= 8 else (503, {}, "down")
    with pytest.raises(UserError, match=r"all but 1.2 of 12 .* found 2 of the first 10 failed, .*status 503: down"):
        ask(section | {"max_failed_share": 0.1}, *MANY)
    endpoint.script, endpoint.prompts[:] = longer, []
    assert len(ask(section, *MANY)) == 12 and len(endpoint.prompts) == 4


@pytest.mark.parametrize("share", [0.9, 1])
def test_a_judge_that_never_answers_stops_early(endpoint, section, share):
    endpoint.script = lambda prompt, number: (500, {}, "down")
    section |= {"max_failed_share": share, "parallel": 2, "attempts": 2}
    with pytest.raises(UserError, match=r"found 4 of the first 4 failed.*kept in .*cache.*run again") as caught:
        ask(section, *MANY)
    assert "\n" not in str(caught.value) and len(endpoint.prompts) <= 12  # 4 × 2, and two that were on their way
    with pytest.raises(UserError, match=r"of 2 requests .* found 2 of the first 2 failed"):
        ask(section, *MANY[:2])


def test_an_early_stop_does_not_wait_for_long_back_offs(endpoint, section):
    endpoint.script = lambda prompt, number: (429, {"Retry-After": "60"}, "") if number % 2 else (403, {}, "bad")
    start = time.monotonic()
    with pytest.raises(UserError, match="status 403"):
        ask(section | {"parallel": 2}, *MANY)
    assert time.monotonic() - start < 5


def test_rating_by_hand(monkeypatch):
    scored = {"good": 2.0, "bad": 1.0, "fair": 2.0, "odd": float("nan")}
    asked = []

    def scorer(texts, styles, section, device):
        asked.extend(texts)
        return [{style: scored[text] * (-1 if style == "honesty" else 1) for style in styles} for _, text in texts]

    monkeypatch.setitem(judges.SCORERS, "hand", scorer)
    rating = build({"kind": "rating", "rating": {"scorer": "hand"}})
    pairs = [("good", "bad"), ("bad", "good"), ("good", "fair"), ("good", "good")]
    given = rating([Comparison("i", style, *pair) for style in ("helpfulness", "honesty") for pair in pairs])
    assert [v.choice for v in given] == ["first", "second", "tie", "tie", "second", "first", "tie", "tie"]
    assert (given[0].answer, given[4].answer, given[0].attempts) == ("[2.0, 1.0]", "[-2.0, -1.0]", 0)
    assert asked == [("i", "good"), ("i", "bad"), ("i", "fair")]
    with pytest.raises(UserError, match=r"expected finite scores of honesty, found -2\.0 and nan"):
        rating([Comparison("i", "honesty", "good", "odd")])
    with pytest.raises(UserError, match=r"judge\.rating\.scorer: expected one of embedded, model"):
        build({"kind": "rating", "rating": {"scorer": "oracle"}})
    with pytest.raises(UserError, match=r"judge\.kind: expected one of rating, llm, found panel"):
        build({"kind": "panel"})


def test_rating_of_the_embedded_world():
    texts = [("Name three colours.", "Red, green and blue."), ("Name three colours.", "No.")]
    rating = build({"kind": "rating", "rating": {"scorer": "embedded"}})
    for style in ASPECTS:
        (judgement,) = rating([Comparison(texts[0][0], style, texts[0][1], texts[1][1])])
        assert json.loads(judgement.answer) == [ratings(*text)[style] for text in texts]


@pytest.mark.parametrize("labels", [["score"], [*ASPECTS[::-1], "verbosity"]], ids=["one output", "one a style"])
def test_rating_by_a_reward_model(model_folder, tmp_path, labels):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.save_pretrained(tmp_path)
    size = GPT2Config.from_pretrained(
        model_folder, id2label=dict(enumerate(labels)), pad_token_id=tokenizer.eos_token_id
    )
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(size).eval()
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(tmp_path)
    texts = ["The film", "A warm novel with a clever plot"]
    with torch.no_grad():  # one at a time: nothing is padded
        alone = [model(**tokenizer("Skip it.", text, return_tensors="pt")).logits[0].tolist() for text in texts]
    rating = build({"kind": "rating", "rating": {"scorer": "model", "path": str(tmp_path)}})
    for style, judgement in zip(ASPECTS, rating([Comparison("Skip it.", style, *texts) for style in ASPECTS])):
        column = labels.index(style) if len(labels) > 1 else 0
        a, b = (scores[column] for scores in alone)
        assert json.loads(judgement.answer) == pytest.approx([a, b], abs=1e-5)
        assert judgement.choice == ("first" if a > b else "second")


def test_a_reward_model_with_a_chat_template_reads_chats_in_fp32(model_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}; {% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    size = GPT2Config.from_pretrained(model_folder, num_labels=1, pad_token_id=tokenizer.eos_token_id)
    GPT2ForSequenceClassification(size).bfloat16().save_pretrained(tmp_path)
    model = GPT2ForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    chats = [f"user: Skip it.; assistant: {text}; " for text in ("The film", "A boat")]
    with torch.no_grad():
        alone = [model(**tokenizer(chat, return_tensors="pt")).logits.item() for chat in chats]
    rating = build({"kind": "rating", "rating": {"scorer": "model", "path": str(tmp_path)}})
    (judgement,) = rating([Comparison("Skip it.", "honesty", "The film", "A boat")])
    assert json.loads(judgement.answer) == pytest.approx(alone, abs=1e-5)


def test_a_folder_without_a_reward_model_is_one_line(model_folder, tmp_path):
    assert GPT2LMHeadModel.from_pretrained(model_folder)  # a language model: its score would be random
    for folder, found in (model_folder, r"untrained weights: \['score.weight'\]"), (tmp_path, "none that loads"):
        rating = build({"kind": "rating", "rating": {"scorer": "model", "path": str(folder)}})
        with pytest.raises(UserError, match=found) as caught:
            rating([Comparison("i", "honesty", "a", "b")])
        assert "\n" not in str(caught.value)


def write(folder, texts: dict[str, list[str]], weights=None):
    """Completions of prompts 0, 1, … by decoding, a token a word, and the weights of two experts."""
    folder.mkdir()
    rows = [
        {
            "prompt_id": p,
            "sample": 0,
            "decoding": decoding,
            "instruction": f"Do {p}.",
            "user": p % 2,
            "style": ASPECTS[p % 2],
            "prompt": f"<{p}>",
            "completion": text,
            "completion_ids": list(range(len(text.split()))),
        }
        for decoding, completions in texts.items()
        for p, text in enumerate(completions)
    ]
    pd.DataFrame(rows).to_parquet(folder / "completions.parquet")
    weights = pd.DataFrame([[1.0]] * 3 if weights is None else weights).add_prefix("w").rename_axis("prompt_id")
    weights.reset_index().to_parquet(folder / "weights.parquet")
    return folder


@pytest.fixture
def world(tmp_path):
    """A policy with two experts and opponents of one, in other orders of rows."""
    experts = {"expert0": ["zero", "zero a", "zero b"], "expert1": ["one", "one a", "one b"]}
    policy = {"token": ["a longer answer", "mine", "same"], "sequence": ["s", "s", "s"]} | experts
    write(tmp_path / "policy", policy, [[0.6, 0.4], [0.1, 0.9], [0.5, 0.5]])
    write(tmp_path / "base", {"token": ["answer", "a longer answer", "same"]})
    other = pd.read_parquet(write(tmp_path / "dpo", {"token": ["x", "y", "z"]}) / "completions.parquet")
    other.iloc[::-1].to_parquet(tmp_path / "dpo/completions.parquet")
    return tmp_path


def judged(world, section, runtime, out="out"):
    (world / out).mkdir()
    spec = {"judge": {"kind": "llm", "llm": section}}
    inputs = {"policy": world / "policy", "base": world / "base", "dpo": world / "dpo"}
    inputs["reward_model/config.json"] = world / "config.json"  # no opponent
    judgements(world / out, spec, runtime=runtime, resume=world, **inputs)
    table = pd.read_parquet(world / out / "judgements.parquet")
    return table, json.loads((world / out / "counts.json").read_text())


def test_sparse_picks_the_likeliest_expert(world):
    assert decoded(world / "policy", "sparse")["completion"].tolist() == ["zero", "zero b", "one a"]
    assert sorted(decoded(world / "policy", "token")["completion"]) == ["a longer answer", "mine", "same"]


def test_both_orders_are_asked(world, section, endpoint, runtime):
    endpoint.script = longer
    table, counts = judged(world, section, runtime)
    assert (
        len(table) == 48
        and set(table["decoding"]) == {"token", "sparse", "expert0", "expert1"}
        and set(table["opponent"]) == {"base", "dpo"}
    )
    for first, second in ("a longer answer", "answer"), ("zero b", "same"), ("one a", "y"):
        for a, b in (first, second), (second, first):
            assert sum(f"A: {a}\nB: {b}\n" in prompt for prompt in endpoint.prompts) == 1
    mine = table.query("decoding == 'token' and opponent == 'base'")
    assert mine["choice"].tolist() == ["win", "win", "loss", "loss", "tie", "tie"]
    assert mine["tokens_difference"].tolist() == [2, 2, -2, -2, 0, 0]
    assert [says(w) for w in ("B", "A", "A", "B", "tie", "tie")] == mine["answer"].tolist()
    scores = pair_scores(table).set_index(["decoding", "opponent"])
    assert scores.loc[("token", "base"), "score"].tolist() == [1, 0, 0.5]
    asked = len(endpoint.prompts)
    assert asked < 36  # a tie of equal texts is one comparison, and so is an expert's text that `sparse` has chosen
    expected = {"pairs": 24, "judgements": 48, "failures": 0, "requests": asked, "attempts": asked, "contradictions": 0}
    assert counts == expected


def test_a_judge_of_positions_gives_one_half(world, section, endpoint, runtime):
    endpoint.script = lambda prompt, number: says("A")
    table, counts = judged(world, section, runtime)
    assert (table["choice"] == np.where(table["order"] == 1, "win", "loss")).all()
    assert pair_scores(table)["score"].tolist() == [0.5] * 24 and counts["contradictions"] == 1


def test_a_second_run_asks_nothing_and_writes_the_same(world, section, endpoint, runtime):
    endpoint.script = lambda prompt, number: (500, {}, "") if number == 3 else longer(prompt, number)
    judged(world, section, runtime)
    asked = len(endpoint.prompts)
    _, counts = judged(world, section, runtime, "again")
    assert len(endpoint.prompts) == asked and counts["attempts"] > counts["requests"]
    for name in "judgements.parquet", "counts.json":
        assert (world / "out" / name).read_bytes() == (world / "again" / name).read_bytes()


def test_a_failed_order_is_dropped_and_counted(world, section, endpoint, runtime):
    lost = ("A: a longer answer\nB: answer\n", "A: mine\nB: y\n", "A: y\nB: mine\n")
    endpoint.script = lambda prompt, number: "?" if any(text in prompt for text in lost) else longer(prompt, number)
    table, counts = judged(world, section | {"max_failed_share": 0.2, "attempts": 2}, runtime)
    assert counts["failures"] == 3 and counts["attempts"] == counts["requests"] + 3 == len(endpoint.prompts)
    assert table.loc[table["choice"] == "failed", "score"].isna().all() and (table["error"] != "").sum() == 3
    scores = pair_scores(table)
    assert len(scores) == 23 and scores.query("opponent == 'base' and decoding == 'token'")["score"].tolist() == [
        1,
        0,
        0.5,
    ]


def test_one_expert_has_no_sparse_decoding(world, section, endpoint, runtime):
    endpoint.script = longer
    (world / "policy").rename(world / "other")
    write(world / "policy", {"token": ["a longer answer", "mine", "same"]})
    table, _ = judged(world, section, runtime)
    assert set(table["decoding"]) == {"token"} and len(table) == 12


@pytest.mark.parametrize(
    "change, found",
    [
        (lambda f: f.iloc[1:], "expected completions of the prompts"),
        (lambda f: f.assign(instruction="Other."), "expected completions of the prompts"),
        (lambda f: pd.concat([f, f]), "expected one token completion a prompt and user, found 6 for 3"),
        (lambda f: f.assign(decoding="sequence"), "expected one token completion .* found 0 for 0 and none for 3"),
    ],
)
def test_opponents_that_do_not_fit_are_one_line(world, section, runtime, change, found):
    path = world / "base/completions.parquet"
    change(pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(UserError, match=f"base.*: {found}") as caught:
        judged(world, section, runtime)
    assert "\n" not in str(caught.value)


def test_by_length_on_hand_numbers():
    """The edges belong to the middle."""
    found = by_length(np.array([-30, -11, -10, 0, 10, 11]), (-10, 10))
    assert {length: np.flatnonzero(chosen).tolist() for length, chosen in found.items()} == {
        "shorter": [0, 1],
        "about as long": [2, 3, 4],
        "longer": [5],
    }
