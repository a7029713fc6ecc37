"""What a stage trains on, in which order, in which packs.

Needs: results/tokens/ of every dataset in the stage's mixture, or that it validates on; for a stage that
merges tokens, a model with its vision tower.
Makes: results/plans/<recipe>/<stage>.{parquet,json,rejects.jsonl}; where the stage validates on a
dataset, or the recipe holds samples out, the same of them as <stage>.validation.*.
"""

planning = Tracked("plan_stage", project.plan, "recipe", "stage")
planning_validation = Tracked("plan_stage", project.plan_validation, "recipe", "stage")


checkpoint plan_stage:
    """Draw the mixture, pack it and fix the global order of a stage."""
    input:
        upstream.judge_anew,
        tokens=upstream.tokens,
        model=upstream.merging_model,
    output:
        plan="results/plans/{recipe}/{stage}.json",
        parquet="results/plans/{recipe}/{stage}.parquet",
        rejects="results/plans/{recipe}/{stage}.rejects.jsonl",
    log:
        "results/logs/plan_stage/{recipe}/{stage}.log",
    benchmark:
        "results/benchmarks/plan_stage/{recipe}/{stage}.jsonl"
    params:
        *planning.params,
        options=planning.options,
        model=lambda wildcards, input: (
            paths.model_of_lock(input.model) if input.model else []
        ),
    message:
        "plan {wildcards.recipe} {wildcards.stage}"
    shell:
        r"""
        python scripts/plan_stage.py \
            --options {params.options:q} \
            --tokens {input.tokens:q} \
            --model {params.model:q} \
            --plan {output.plan:q} \
            --parquet {output.parquet:q} \
            --rejects {output.rejects:q} \
            2>&1 | tee {log:q}
        """


checkpoint plan_validation:
    """Plan what a stage validates on, or its recipe holds out, in packs as it trains."""
    input:
        upstream.judge_anew,
        tokens=upstream.validation_tokens,
        model=upstream.merging_model,
    output:
        plan="results/plans/{recipe}/{stage}.validation.json",
        parquet="results/plans/{recipe}/{stage}.validation.parquet",
        rejects="results/plans/{recipe}/{stage}.validation.rejects.jsonl",
    log:
        "results/logs/plan_validation/{recipe}/{stage}.log",
    wildcard_constraints:
        recipe=planning_validation.constraints[0],
        stage=planning_validation.constraints[1],
    params:
        *planning_validation.params,
        options=planning_validation.options,
        model=lambda wildcards, input: (
            paths.model_of_lock(input.model) if input.model else []
        ),
    message:
        "plan validation of {wildcards.recipe} {wildcards.stage}"
    shell:
        r"""
        python scripts/plan_stage.py \
            --options {params.options:q} \
            --tokens {input.tokens:q} \
            --model {params.model:q} \
            --plan {output.plan:q} \
            --parquet {output.parquet:q} \
            --rejects {output.rejects:q} \
            2>&1 | tee {log:q}
        """
