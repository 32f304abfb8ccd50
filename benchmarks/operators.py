"""Where the time of a DPO step goes, by kind of operator: prints milliseconds a step as JSON. `all.py` runs it.

`python -P`, with a checkout and its benchmarks/ on PYTHONPATH, measures the code of that checkout.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path

import torch
from measure import random_language_model
from torch.profiler import ProfilerActivity, profile
from training import our_step, random_pairs

from mixdpo.method.runtime import Runtime

KINDS = {  # the first whose pattern fits the whole name of an operator
    "optimiser, clipping": r"aten::(_fused_adam.*|_foreach_.*|linalg_vector_norm)",
    "attention": r"aten::(bmm|baddbmm|.*scaled_dot_product.*)",
    "matrix products": r"aten::(mm|addmm|linear|matmul|mkldnn_.*)|mkldnn::.*",
    "softmax": r"aten::(_?(log_)?softmax.*|_(log_)?softmax_backward_data|nll_loss.*|cross_entropy.*)",
    "GELU": r"aten::(gelu|gelu_backward|tanh|tanh_backward|pow)",
    "layer norms": r"aten::(native_)?layer_norm.*",
    "copies, casts, fills": r"aten::(copy_|_to_copy|to|clone|contiguous|cat|stack|fill_|zero_|zeros.*|empty.*|index.*"
    r"|new_.*|slice.*|split.*|scatter.*|gather.*|select.*|resize_|constant_pad_nd|masked_s.*|_index_put_impl_)",
    "element-wise": r"aten::(add|sub|rsub|mul|div|neg|exp|expm1|log.*|sum|mean|where|masked_fill|clamp|sigmoid)\w*",
}
STEPS = 5


def kinds(events: list) -> dict[str, float]:
    """Milliseconds a step that operators of each kind took themselves."""
    times = dict.fromkeys([*KINDS, "rest"], 0.0)
    for event in events:
        kind = next((name for name, pattern in KINDS.items() if re.fullmatch(pattern, event.key)), "rest")
        times[kind] += event.self_cpu_time_total / 1000 / STEPS
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size")
    parser.add_argument("batch", type=int)
    parser.add_argument("precision")
    given = parser.parse_args()
    runtime = Runtime.choose("cpu", given.precision, torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        model = random_language_model(given.size, Path(folder) / "model")
        step = our_step("DPO", model, random_pairs(given.size, 8 * given.batch, 1)[1], given.batch, runtime)
        step(), step()
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(STEPS):
                step()
    print(json.dumps(kinds(found.key_averages())))


if __name__ == "__main__":
    main()
