"""Trained weights to models that others can load.

Needs: results/checkpoints/<recipe>/<stage>/result.json and its weights, or one of its checkpoints.
Makes: results/models/<recipe>/<stage>/{merged,adapter}/ and a manifest beside each folder.
"""

merging = Tracked("merge_model", project.merge, "recipe", "stage")
exporting_adapters = Tracked("export_adapter", project.adapter, "recipe", "stage")


localrules:
    export_adapter,


checkpoint merge_model:
    """Merge adapters into their base, or copy full weights, and prove that nothing was lost."""
    input:
        upstream.judge_anew,
        result="results/checkpoints/{recipe}/{stage}/result.json",
        model=upstream.initial_model,
    output:
        manifest="results/models/{recipe}/{stage}/merged.json",
    log:
        "results/logs/merge_model/{recipe}/{stage}.log",
    benchmark:
        "results/benchmarks/merge_model/{recipe}/{stage}.jsonl"
    threads: 2
    params:
        *merging.params,
        options=merging.options,
        model=lambda wildcards, input: paths.model_of_lock(input.model),
        folder=lambda wildcards, output: paths.model_of_lock(output.manifest),
    message:
        "merge {wildcards.recipe} {wildcards.stage}"
    shell:
        r"""
        python scripts/merge_model.py \
            --options {params.options:q} \
            --result {input.result:q} \
            --model {params.model:q} \
            --model-manifest {input.model:q} \
            --folder {params.folder:q} \
            --manifest {output.manifest:q} \
            --threads {threads} \
            2>&1 | tee {log:q}
        """


rule export_adapter:
    """Export the adapters of a LoRA stage."""
    input:
        upstream.judge_anew,
        result="results/checkpoints/{recipe}/{stage}/result.json",
    output:
        manifest="results/models/{recipe}/{stage}/adapter.json",
    log:
        "results/logs/export_adapter/{recipe}/{stage}.log",
    params:
        *exporting_adapters.params,
        options=exporting_adapters.options,
        folder=lambda wildcards, output: paths.model_of_lock(output.manifest),
    message:
        "export adapter of {wildcards.recipe} {wildcards.stage}"
    shell:
        r"""
        python scripts/export_adapter.py \
            --options {params.options:q} \
            --result {input.result:q} \
            --folder {params.folder:q} \
            --manifest {output.manifest:q} \
            2>&1 | tee {log:q}
        """
