"""The model card of a saved policy: data, method, configuration, figures and limits, in Markdown."""

import pandas as pd
import yaml

CARD = """---
library_name: mixdpo
tags: [dpo, preference-optimization, mixture-of-experts]
---

# {title}

A policy of Mix- and MoE-DPO (arXiv 2510.08256) with {experts}.

## Use

```python
from mixdpo import TextPolicy

print(TextPolicy(".").generate(["A prompt"]{users}))
```

`mixdpo export --policy . --out DIR` writes each expert as a model of transformers.

## Data

{data}

## Figures on {triplets} held-out triplets

| | before | after |
|---|---|---|
{figures}

nll is −log P(y⁺ ≻ y⁻) under the mixture model, accuracy the share of triplets with P > 1/2, kl the mean of
log π_ref(y | x) − log π_k(y | x) over experts and the completions of the triplets: where those were sampled from the
reference, an estimate of KL(π_ref ‖ π_k) in nats.

## Configuration

```yaml
{configuration}```

## Limits

The policy has learned what its preferences say, and has no other check on what it writes. Its figures are those of the
data above. Text from it can be false or offensive as that of the model it started from can.
"""


def model_card(spec: dict, experts: int, labels: pd.DataFrame, validation: dict) -> str:
    """`spec` is the method with its seed; `labels` are style, domain and user of the training triplets, where known;
    `validation` is `validation.json`.
    """
    counts = [f"- by {column}: {_counted(labels[column])}" for column in labels]
    names = list(validation["after"])
    rows = [f"| {name} | {validation['before'][name]:.4f} | {validation['after'][name]:.4f} |" for name in names]
    return CARD.format(
        title=f"Mixture of {experts} experts" if experts > 1 else "DPO policy",
        experts=f"{experts} experts" if experts > 1 else "one expert, which is DPO",
        data="\n".join([f"{len(labels)} preference triplets (prompt, chosen, rejected)", *counts]),
        users=f", users={[labels['user'].min()]}" if spec["weights"].get("sees") == "user" else "",
        triplets=validation["triplets"],
        figures="\n".join(rows),
        configuration=yaml.safe_dump(spec, sort_keys=True),
    )


def _counted(values: pd.Series, most: int = 8) -> str:
    counts = values.value_counts().sort_index()
    shown = ", ".join(f"{value} {n}" for value, n in counts.iloc[:most].items())
    return shown + (f" and {len(counts) - most} more" if len(counts) > most else "")
