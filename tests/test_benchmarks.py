"""The benchmarks run; docs/performance.md has the figures of the committed files."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import yaml
from conftest import ROOT, changed


@pytest.fixture
def module(monkeypatch):
    """Imports a module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return __import__


def test_performance_has_the_figures_of_the_committed_files(module):
    report = module("report")
    text = report.DOCUMENT.read_text()
    assert report.filled(text) == text, "docs/performance.md is out of step; type python benchmarks/report.py"
    assert report.PLOT.is_file()


def test_a_mark_that_nothing_fills_is_an_error(module):
    for words in ("nowhere dpo", "nvidia-h200 nothing", "nvidia-h200 ratio DPO fp64"):
        with pytest.raises(SystemExit, match=f"measured {words}: expected .*; correct the mark"):
            module("report").filled(f"<!-- measured {words} -->\n<!-- end -->")


def test_a_variant_runs_in_a_process_of_its_own(module):
    turns = module("turns")
    variants = {name: turns.Variant("limits.copy", 1, own_memory=name == "kept") for name in ("plain", "kept")}
    found = turns.take_turns(variants, rounds=2, seconds=0.01)
    assert all((figures["seconds"] > 0).all() and len(figures["seconds"]) == 2 for figures in found.values())
    assert not any(variant.process.is_alive() for variant in variants.values())


def test_ratios_are_formed_round_by_round(module):
    turns = module("turns")
    seconds = {"ours": [1.0, 2.0, 4.0], "TRL": [3.0, 4.0, 12.0], "limit": [0.5, 0.5, 1.0]}
    found = {name: {"seconds": np.array(times), "memory": 10.0 * times[0]} for name, times in seconds.items()}
    speed = turns.row("DPO", "fp32", found, "ours", "TRL", "pairs/s", amount=8, flops=[2, 1])
    assert (speed["ours"], speed["peer"], speed["ratio"], speed["share"]) == (4, 2, [2, 3, 3], 0.5)
    assert turns.row("DPO", "fp32", found, "TRL", "ours", "ms", flops_ratio=2)["ratio"] == [2, 3, 3]
    assert turns.row("DPO", "fp32", found, "ours", "TRL", "MiB")["ratio"] == pytest.approx([1 / 3] * 3)


def test_the_work_of_a_step_is_that_of_its_products(module):
    measure, limits = module("measure"), module("limits")
    body = sum(n * k * m for n, k, m in limits.encoder("small", 2 * 16 * 56))
    assert measure.step_flops("small", 16) == 2 * 3 * (body + 2 * 16 * 48 * 256 * 8000)


def test_the_script_for_a_gpu_runs(module, monkeypatch, tmp_path, capsys):
    """On the processor, without TRL, which its rows do without."""
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--out", str(tmp_path / "found.json")])
    module("gpu").main()
    printed, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())
    assert "TRL is left out" in printed and "| 2 pairs, DPO, replayed, bf16" in printed
    assert {row["group"] for row in found["rows"]} == {"dpo", "experts", "sampling"}
    assert all(0 < row["ratio"][0] <= row["ratio"][2] for row in found["rows"])
    assert len(found["parity"]) == 15


def test_a_search_trains_what_it_has_no_line_of(
    module, monkeypatch, tmp_path, method, model_folder, preferences_folder, capsys
):
    search = module("search")
    stages = {"sft": model_folder.parent}
    stages |= {name: preferences_folder / name for name in ("preferences", "reference_log_probs")}
    for name, folder in stages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "e").symlink_to(folder)
    one, by_prompt = changed(method, optimiser={"epochs": 1}), changed(method, posterior={"unit": "prompt"})
    given, out = tmp_path / "methods.yaml", tmp_path / "found.json"
    arguments = [str(given), "--results", str(tmp_path), "--experiment", "e", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["search.py", *arguments])
    monkeypatch.setattr(search, "ProcessPoolExecutor", lambda jobs: ThreadPoolExecutor(1))

    given.write_text(yaml.safe_dump({"one": one.as_dict()}))
    search.main()
    found = json.loads(out.read_text())
    assert list(found) == ["one"] and found["one"]["settings"] == one.as_dict()
    figures = found["one"]["figures"]
    assert 0 < figures["−log P"] == figures["of its own rewards"] and 1 / 3 <= figures["recovered"] <= 1
    assert 0.333 < figures["largest w"] <= 1 and "units recovered" not in figures
    assert f"{figures['−log P']:.4f}" in capsys.readouterr().out

    given.write_text(yaml.safe_dump({"one": one.as_dict(), "by_prompt": by_prompt.as_dict()}))
    search.main()
    found = json.loads(out.read_text())
    assert found["one"]["figures"] == figures and 0 <= found["by_prompt"]["figures"]["units recovered"] <= 1

    before = out.read_bytes()
    monkeypatch.setattr(search, "policies", None)
    search.main()
    assert out.read_bytes() == before
