"""One training stage.

Needs: its plan, the token shards behind it, the model it starts from; with `cache_features` the
features of its datasets, with `validate` the plan of what it validates on, with `continue_from` the
result of the stage whose run it extends.
Makes: results/checkpoints/<recipe>/<stage>/result.json. Snakemake deletes declared outputs before
a run, so the work folder beside it (work/<key>/) is not declared: it survives, and a training that
was killed goes on from its last whole checkpoint.
"""

training = Tracked("train_stage", project.train, "recipe", "stage")


checkpoint train_stage:
    """Train one stage of a recipe; resumes what was interrupted."""
    input:
        upstream.judge_anew,
        plan="results/plans/{recipe}/{stage}.json",
        model=upstream.initial_model,
        features=upstream.features,
        validation=upstream.validation,
        parent=upstream.parent,
    output:
        result="results/checkpoints/{recipe}/{stage}/result.json",
    log:
        "results/logs/train_stage/{recipe}/{stage}.log",
    benchmark:
        "results/benchmarks/train_stage/{recipe}/{stage}.jsonl"
    threads: 2
    params:
        *training.params,
        options=training.options,
        code=training.code_hash,
        model=lambda wildcards, input: paths.model_of_lock(input.model),
        parquet=lambda wildcards, input: input.plan.replace(".json", ".parquet"),
        steps=upstream.named_steps,
        hardware=lambda wildcards, resources: resources.get("hardware", "cpu"),
    message:
        "train {wildcards.recipe} {wildcards.stage}"
    shell:
        r"""
        python scripts/train_stage.py \
            --options {params.options:q} \
            --plan {input.plan:q} \
            --parquet {params.parquet:q} \
            --results results \
            --model {params.model:q} \
            --model-manifest {input.model:q} \
            --features {input.features:q} \
            --validation {input.validation:q} \
            --parent {input.parent:q} \
            --keep-steps {params.steps} \
            --work results/checkpoints/{wildcards.recipe:q}/{wildcards.stage:q}/work \
            --code {params.code:q} \
            --hardware config/hardware/{params.hardware:q}.yaml \
            --threads {threads} \
            --result {output.result:q} \
            2>&1 | tee {log:q}
        """
