"""Scores of images by a model or a measure, which filters judge by; kept whatever the limits are.

Needs: results/converted/<dataset>/ and results/raw/<dataset>/; the scorer's model.
Makes: results/scores/<dataset>/<scores>/{scores-*.jsonl,manifest.json}; results/classifiers/ where
the scorer is a classifier trained here on labelled images. <scores> is a scorer and its options.
"""

training_classifiers = Tracked("train_classifier", project.train_classifier, "scores")
scoring_images = Tracked("score_image_shard", project.score_images, "dataset", "scores")
listing_scores = Tracked(
    "write_score_manifest", project.score_images, "dataset", "scores"
)


localrules:
    write_score_manifest,


checkpoint train_classifier:
    """Train the classifier behind scores on labelled images."""
    input:
        upstream.judge_anew,
        converted=upstream.labels,
        weights=upstream.classifier_weights,
    output:
        manifest="results/classifiers/{scores}.json",
    log:
        "results/logs/train_classifier/{scores}.log",
    benchmark:
        "results/benchmarks/train_classifier/{scores}.jsonl"
    wildcard_constraints:
        scores=training_classifiers.constraints[0],
    threads: 2
    params:
        *training_classifiers.params,
        options=training_classifiers.options,
        code=training_classifiers.code_hash,
        labels=lambda wildcards: project.labels_of[wildcards.scores],
        weights=lambda wildcards, input: paths.model_of_lock(str(input.weights)),
        hardware=lambda wildcards, resources: resources.get("hardware", "cpu"),
    message:
        "train classifier {wildcards.scores}"
    shell:
        r"""
        python scripts/train_classifier.py \
            --options {params.options:q} \
            --converted {input.converted:q} \
            --raw results/raw/{params.labels:q} \
            --weights={params.weights:q} \
            --code {params.code:q} \
            --folder results/classifiers/{wildcards.scores:q} \
            --manifest {output.manifest:q} \
            --hardware config/hardware/{params.hardware:q}.yaml \
            --threads {threads} \
            2>&1 | tee {log:q}
        """


rule score_image_shard:
    """Score the images of one converted shard."""
    input:
        model=upstream.scorer_model,
        converted=ancient("results/converted/{dataset}/manifest.json"),
    output:
        scores="results/scores/{dataset}/{scores}/scores-{block}.jsonl",
    log:
        "results/logs/score_image_shard/{dataset}/{scores}/{block}.log",
    benchmark:
        "results/benchmarks/score_image_shard/{dataset}/{scores}/{block}.jsonl"
    wildcard_constraints:
        block=r"\d+",
    threads: 2
    params:
        *scoring_images.params,
        upstream.converted_shard_hash,
        options=scoring_images.options,
        code=scoring_images.code_hash,
        model=lambda wildcards, input: paths.model_of_lock(str(input.model)),
        model_manifest=lambda wildcards, input: str(input.model),
        hardware=lambda wildcards, resources: resources.get("hardware", "cpu"),
    message:
        "score images of {wildcards.dataset} {wildcards.block}: {wildcards.scores}"
    shell:
        r"""
        python scripts/score_image_shard.py \
            --dataset {wildcards.dataset:q} \
            --options {params.options:q} \
            --converted results/converted/{wildcards.dataset:q}/samples-{wildcards.block:q}.jsonl.zst \
            --raw results/raw/{wildcards.dataset:q} \
            --model={params.model:q} \
            --model-manifest={params.model_manifest:q} \
            --code {params.code:q} \
            --output {output.scores:q} \
            --hardware config/hardware/{params.hardware:q}.yaml \
            --threads {threads} \
            2>&1 | tee {log:q}
        """


checkpoint write_score_manifest:
    """List a dataset's image scores."""
    input:
        upstream.judge_anew,
        converted="results/converted/{dataset}/manifest.json",
        scores=upstream.score_shards,
    output:
        manifest="results/scores/{dataset}/{scores}/manifest.json",
    log:
        "results/logs/write_score_manifest/{dataset}/{scores}.log",
    params:
        *listing_scores.params,
        options=listing_scores.options,
    message:
        "list image scores of {wildcards.dataset}: {wildcards.scores}"
    shell:
        r"""
        python scripts/write_score_manifest.py \
            --dataset {wildcards.dataset:q} \
            --options {params.options:q} \
            --converted {input.converted:q} \
            --folder results/scores/{wildcards.dataset:q}/{wildcards.scores:q} \
            --manifest {output.manifest:q} \
            2>&1 | tee {log:q}
        """
