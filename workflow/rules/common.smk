import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(workflow.current_basedir)))

from mixdpo.provenance.artifact import keep
from mixdpo.run.config import is_figure, present
from mixdpo.run.graph import targets
from mixdpo.run.layout import pattern
from mixdpo.run.rules import complete, made_from, named, work
from mixdpo.warm import start

TABLES = complete(config, workflow.overwrite_configfiles)
DEVICE, PRECISION, THREADS = (config["runtime"][key] for key in ("device", "precision", "threads"))
where = partial(pattern, config["run"])
made_from, named, work = (partial(function, config, TABLES) for function in (made_from, named, work))
FIGURES = [name for name, table in TABLES.items() if is_figure(table)]


onstart:
    every = {table.get("target", "all") for table in TABLES.values()}
    keep(Path(path) for target in every for path in targets(config, TABLES, target))
    start()


wildcard_constraints:
    experiment="|".join(present(config)),
    policy="reference|({})/seed[0-9]+".format("|".join(config["policies"]["methods"])),
    method="|".join(config["policies"]["methods"]),
    seed="[0-9]+",
    table="|".join(name for name in TABLES if name not in FIGURES),


# What all stages share; each adds its input, output, log and work.
rule job:
    log:
        f"logs/{config['run']}/job.log",
    conda:
        "../../envs/mixdpo.yaml"
    threads: THREADS
    resources:
        gpu=0 if DEVICE == "cpu" else 1,
        device=DEVICE,
        precision=PRECISION,
    params:
        inputs=named,
    shell:
        "python -m mixdpo {params.stage:q} --out {output.manifest:q} --spec {params.spec:q} --code {params.code:q}"
        " --record {params.record:q} {params.inputs:q} --device {resources.device:q}"
        " --precision {resources.precision:q} --threads {threads} > {log:q} 2>&1"


# Stages without a model: one thread of the CPU, whatever the device of the run.
use rule job as light with:
    threads: 1
    resources:
        device="cpu",
        precision=PRECISION,
