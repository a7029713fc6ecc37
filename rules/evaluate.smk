"""Answers and scores of the untrained base and of every stage, by the same code.

Needs: a model (base or merged export) and a converted benchmark.
Makes: results/evals/<recipe>/<model>/<benchmark>/{predictions.jsonl,scores.json,items.jsonl}.
"""

predicting = Tracked(
    "predict_benchmark", project.predict, "recipe", "model", "benchmark"
)
scoring = Tracked("score_predictions", project.score, "recipe", "model", "benchmark")


localrules:
    score_predictions,


rule predict_benchmark:
    """Ask a model every question of a benchmark."""
    input:
        upstream.judge_anew,
        model=upstream.evaluated_model,
        converted="results/converted/{benchmark}/manifest.json",
    output:
        predictions="results/evals/{recipe}/{model}/{benchmark}/predictions.jsonl",
    log:
        "results/logs/predict_benchmark/{recipe}/{model}/{benchmark}.log",
    benchmark:
        "results/benchmarks/predict_benchmark/{recipe}/{model}/{benchmark}.jsonl"
    threads: 1
    params:
        *predicting.params,
        options=predicting.options,
        model=lambda wildcards, input: paths.model_of_lock(input.model),
        hardware=lambda wildcards, resources: resources.get("hardware", "cpu"),
    message:
        "ask {wildcards.recipe} {wildcards.model}: {wildcards.benchmark}"
    shell:
        r"""
        python scripts/predict_benchmark.py \
            --options {params.options:q} \
            --model {params.model:q} \
            --model-manifest {input.model:q} \
            --converted {input.converted:q} \
            --raw results/raw/{wildcards.benchmark:q} \
            --predictions {output.predictions:q} \
            --hardware config/hardware/{params.hardware:q}.yaml \
            --threads {threads} \
            2>&1 | tee {log:q}
        """


checkpoint score_predictions:
    """Score a model's answers with the benchmark's metric."""
    input:
        upstream.judge_anew,
        predictions="results/evals/{recipe}/{model}/{benchmark}/predictions.jsonl",
        converted="results/converted/{benchmark}/manifest.json",
    output:
        scores="results/evals/{recipe}/{model}/{benchmark}/scores.json",
        answers="results/evals/{recipe}/{model}/{benchmark}/items.jsonl",
    log:
        "results/logs/score_predictions/{recipe}/{model}/{benchmark}.log",
    params:
        *scoring.params,
        options=scoring.options,
    message:
        "score {wildcards.recipe} {wildcards.model}: {wildcards.benchmark}"
    shell:
        r"""
        python scripts/score_predictions.py \
            --options {params.options:q} \
            --predictions {input.predictions:q} \
            --converted {input.converted:q} \
            --scores {output.scores:q} \
            --items {output.answers:q} \
            2>&1 | tee {log:q}
        """
