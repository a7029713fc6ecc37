"""Raw rows to canonical samples, with every medium audited.

Needs: results/raw/<dataset>/ and its lock.
Makes: results/converted/<dataset>/{samples-*.jsonl.zst,manifest.json,rejects.jsonl}.
"""

converting = Tracked("convert_dataset", project.convert, "dataset")


checkpoint convert_dataset:
    """Convert a dataset to canonical samples and audit its media."""
    input:
        upstream.judge_anew,
        lock="results/raw/{dataset}.lock.json",
    output:
        manifest="results/converted/{dataset}/manifest.json",
        rejects="results/converted/{dataset}/rejects.jsonl",
    log:
        "results/logs/convert_dataset/{dataset}.log",
    benchmark:
        "results/benchmarks/convert_dataset/{dataset}.jsonl"
    threads: 2
    params:
        *converting.params,
        options=converting.options,
    message:
        "convert dataset {wildcards.dataset}"
    shell:
        r"""
        python scripts/convert_dataset.py \
            --dataset {wildcards.dataset:q} \
            --options {params.options:q} \
            --raw results/raw/{wildcards.dataset:q} \
            --lock {input.lock:q} \
            --manifest {output.manifest:q} \
            --rejects {output.rejects:q} \
            --threads {threads} \
            2>&1 | tee {log:q}
        """
