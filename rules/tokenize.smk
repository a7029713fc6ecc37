"""Image shards to token shards: token ids, labels and resized images.

Needs: results/filtered/<dataset>/<variant>/ and the base model's tokenizer.
Makes: results/tokens/<dataset>/<variant>/{shard-*.tar,shard-*.index.parquet,manifest.json,
rejects.jsonl}; independent of mixture, sequence length and the recipe's seed.
"""

tokenizing = Tracked("tokenize_shard", project.tokenize, "dataset", "variant")
listing_tokens = Tracked("write_token_manifest", project.tokenize, "dataset", "variant")


localrules:
    write_token_manifest,


rule tokenize_shard:
    """Tokenise the samples of one image shard."""
    input:
        model=upstream.tokenizer,
        shard=upstream.image_shard,
    output:
        shard="results/tokens/{dataset}/{variant}/shard-{shard}.tar",
        index="results/tokens/{dataset}/{variant}/shard-{shard}.index.parquet",
        rejects="results/tokens/{dataset}/{variant}/shard-{shard}.rejects.jsonl",
    log:
        "results/logs/tokenize_shard/{dataset}/{variant}/{shard}.log",
    benchmark:
        "results/benchmarks/tokenize_shard/{dataset}/{variant}/{shard}.jsonl"
    params:
        *tokenizing.params,
        upstream.image_shard_hash,
        options=tokenizing.options,
        model=lambda wildcards, input: paths.model_of_lock(input.model),
    message:
        "tokenise {wildcards.dataset} {wildcards.shard}"
    shell:
        r"""
        python scripts/tokenize_shard.py \
            --options {params.options:q} \
            --shard {input.shard:q} \
            --model {params.model:q} \
            --output {output.shard:q} \
            --index {output.index:q} \
            --rejects {output.rejects:q} \
            2>&1 | tee {log:q}
        """


checkpoint write_token_manifest:
    """List a tokenised dataset's shards and counts."""
    input:
        upstream.judge_anew,
        model=upstream.tokenizer,
        filtered=upstream.filtered,
        shards=upstream.token_shards,
    output:
        manifest="results/tokens/{dataset}/{variant}/manifest.json",
        rejects="results/tokens/{dataset}/{variant}/rejects.jsonl",
    log:
        "results/logs/write_token_manifest/{dataset}/{variant}.log",
    params:
        *listing_tokens.params,
        options=listing_tokens.options,
    message:
        "list token shards of {wildcards.dataset}"
    shell:
        r"""
        python scripts/write_token_manifest.py \
            --dataset {wildcards.dataset:q} \
            --variant {wildcards.variant:q} \
            --options {params.options:q} \
            --filtered {input.filtered:q} \
            --folder results/tokens/{wildcards.dataset:q}/{wildcards.variant:q} \
            --manifest {output.manifest:q} \
            --rejects {output.rejects:q} \
            2>&1 | tee {log:q}
        """
