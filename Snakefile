"""Every table of "Mix- and MoE-DPO", from raw reviews to print."""

from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")


configfile: "config.yaml"


for methods in sorted(Path("config/methods").glob("*.yaml")):

    configfile: methods


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/assets.smk"
include: "workflow/rules/sft.smk"
include: "workflow/rules/completions.smk"
include: "workflow/rules/rewards.smk"
include: "workflow/rules/preferences.smk"
include: "workflow/rules/policies.smk"
include: "workflow/rules/evaluations.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/page.smk"


rule all:
    default_target: True
    input:
        targets(config, TABLES),


# The variants of appendices B.3, E and G, and other architectures for users: 26 trainings more than `all`.
rule ablations:
    input:
        targets(config, TABLES, "ablations"),


# The claims under other rewards, decodings and β: four trainings more than `all`.
rule sensitivity:
    input:
        targets(config, TABLES, "sensitivity"),
