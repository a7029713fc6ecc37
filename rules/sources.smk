"""Raw data and base models, fetched and locked.

Makes: results/raw/<dataset>/, its lock and file list; results/raw/models/<name>/ likewise.
These rules alone see the network and the hub's token; nothing under raw/ changes after its lock.
"""

fetching = Tracked("fetch_dataset", project.fetch, "dataset")
fetching_models = Tracked("fetch_model", project.source_models.fetch, "model")
building_models = Tracked("build_model", project.source_models.build, "model")
applying_adapters = Tracked(
    "apply_adapter", project.source_models.apply_adapter, "model"
)


localrules:
    fetch_dataset,
    fetch_model,


checkpoint fetch_dataset:
    """Fetch or generate a dataset and lock the hash of every file."""
    output:
        lock="results/raw/{dataset}.lock.json",
        files="results/raw/{dataset}.files.tsv",
    log:
        "results/logs/fetch_dataset/{dataset}.log",
    benchmark:
        "results/benchmarks/fetch_dataset/{dataset}.jsonl"
    wildcard_constraints:
        dataset=fetching.constraints[0],
    resources:
        raw_dir=project.config.raw_dir or "",
    params:
        *fetching.params,
        upstream.folder_digest,
        options=fetching.options,
    message:
        "fetch dataset {wildcards.dataset}"
    shell:
        r"""
        python scripts/fetch_dataset.py \
            --dataset {wildcards.dataset:q} \
            --options {params.options:q} \
            --raw results/raw/{wildcards.dataset:q} \
            --lock {output.lock:q} \
            --files {output.files:q} \
            --shared={resources.raw_dir:q} \
            2>&1 | tee {log:q}
        """


checkpoint fetch_model:
    """Fetch a model (a snapshot of the hub or a folder) and lock it."""
    output:
        lock="results/raw/models/{model}.lock.json",
        files="results/raw/models/{model}.files.tsv",
    log:
        "results/logs/fetch_model/{model}.log",
    benchmark:
        "results/benchmarks/fetch_model/{model}.jsonl"
    wildcard_constraints:
        model=fetching_models.constraints[0],
    resources:
        raw_dir=project.config.raw_dir or "",
    params:
        *fetching_models.params,
        upstream.folder_digest,
        options=fetching_models.options,
    message:
        "fetch model {wildcards.model}"
    shell:
        r"""
        python scripts/fetch_model.py \
            --model {wildcards.model:q} \
            --options {params.options:q} \
            --raw results/raw/models/{wildcards.model:q} \
            --lock {output.lock:q} \
            --files {output.files:q} \
            --shared={resources.raw_dir:q} \
            2>&1 | tee {log:q}
        """


checkpoint build_model:
    """Build a model from a config file: random weights, tokenizer of the recipe's own text."""
    input:
        upstream.judge_anew,
        converted=upstream.text_of_model,
    output:
        lock="results/raw/models/{model}.lock.json",
        files="results/raw/models/{model}.files.tsv",
    log:
        "results/logs/build_model/{model}.log",
    benchmark:
        "results/benchmarks/build_model/{model}.jsonl"
    wildcard_constraints:
        model=building_models.constraints[0],
    params:
        *building_models.params,
        options=building_models.options,
    message:
        "build model {wildcards.model}"
    shell:
        r"""
        python scripts/build_model.py \
            --model {wildcards.model:q} \
            --options {params.options:q} \
            --converted {input.converted:q} \
            --raw results/raw/models/{wildcards.model:q} \
            --lock {output.lock:q} \
            --files {output.files:q} \
            2>&1 | tee {log:q}
        """


checkpoint apply_adapter:
    """Merge a LoRA adapter of another program into a base: a model to start a stage from."""
    input:
        upstream.judge_anew,
        base=upstream.base_of_adapter,
        adapter=upstream.adapter,
    output:
        lock="results/raw/models/{model}.lock.json",
        files="results/raw/models/{model}.files.tsv",
    log:
        "results/logs/apply_adapter/{model}.log",
    benchmark:
        "results/benchmarks/apply_adapter/{model}.jsonl"
    wildcard_constraints:
        model=applying_adapters.constraints[0],
    threads: 2
    params:
        *applying_adapters.params,
        options=applying_adapters.options,
    message:
        "apply adapter {wildcards.model}"
    shell:
        r"""
        python scripts/apply_adapter.py \
            --model {wildcards.model:q} \
            --options {params.options:q} \
            --base-lock {input.base:q} \
            --adapter-lock {input.adapter:q} \
            --raw results/raw/models/{wildcards.model:q} \
            --lock {output.lock:q} \
            --files {output.files:q} \
            --threads {threads} \
            2>&1 | tee {log:q}
        """
