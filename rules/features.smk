"""What a frozen vision tower makes of the media, computed once, for stages with `cache_features`.

Needs: results/tokens/<dataset>/<variant>/ and the model that the tower is of.
Makes: results/features/<dataset>/<variant>/<features>/{shard-*.tar,shard-*.index.parquet,
manifest.json}; <features> is a point of the model, with a hash of model, family and precision.
Like scores of images they are kept as they are on a machine of another kind.
"""

computing_features = Tracked(
    "compute_features", project.features, "dataset", "variant", "features"
)
listing_features = Tracked(
    "write_features_manifest",
    dict.fromkeys(project.features, {}),
    "dataset",
    "variant",
    "features",
)


localrules:
    write_features_manifest,


rule compute_features:
    """Run the vision tower over the media of one token shard."""
    input:
        model=upstream.features_model,
        tokens=upstream.token_shard,
    output:
        shard="results/features/{dataset}/{variant}/{features}/shard-{shard}.tar",
        index="results/features/{dataset}/{variant}/{features}/shard-{shard}.index.parquet",
    log:
        "results/logs/compute_features/{dataset}/{variant}/{features}/{shard}.log",
    benchmark:
        "results/benchmarks/compute_features/{dataset}/{variant}/{features}/{shard}.jsonl"
    threads: 2
    params:
        *computing_features.params,
        upstream.token_shard_hash,
        options=computing_features.options,
        model=lambda wildcards, input: paths.model_of_lock(input.model),
        hardware=lambda wildcards, resources: resources.get("hardware", "cpu"),
    message:
        "compute features of {wildcards.dataset} {wildcards.shard}"
    shell:
        r"""
        python scripts/compute_features.py \
            --options {params.options:q} \
            --tokens {input.tokens:q} \
            --model {params.model:q} \
            --model-manifest {input.model:q} \
            --hardware config/hardware/{params.hardware:q}.yaml \
            --threads {threads} \
            --output {output.shard:q} \
            --index {output.index:q} \
            2>&1 | tee {log:q}
        """


checkpoint write_features_manifest:
    """List the features of a tokenised dataset."""
    input:
        upstream.judge_anew,
        tokens="results/tokens/{dataset}/{variant}/manifest.json",
        shards=upstream.feature_shards,
    output:
        manifest="results/features/{dataset}/{variant}/{features}/manifest.json",
    log:
        "results/logs/write_features_manifest/{dataset}/{variant}/{features}.log",
    params:
        *listing_features.params,
    message:
        "list features of {wildcards.dataset}"
    shell:
        r"""
        python scripts/write_features_manifest.py \
            --dataset {wildcards.dataset:q} \
            --variant {wildcards.variant:q} \
            --features {wildcards.features:q} \
            --tokens {input.tokens:q} \
            --folder results/features/{wildcards.dataset:q}/{wildcards.variant:q}/{wildcards.features:q} \
            --manifest {output.manifest:q} \
            2>&1 | tee {log:q}
        """
