"""Chosen filters, then image shards.

Needs: results/scores/ of the dataset where a filter judges by scores; results/converted/ of the
dataset, of the recipe's earlier datasets (dedup) and of its benchmarks (overlap).
Makes: results/filtered/<dataset>/<variant>/{decisions.json,shard-*.tar,manifest.json,report.json,
rejects.jsonl,pictures.json,pictures/}. A variant is a chain of filters; recipes with equal chains
share it.
"""

deciding = Tracked("decide_filters", project.decide, "dataset", "variant")
no_options = dict.fromkeys(project.decide, {})
sharding = Tracked("write_image_shard", no_options, "dataset", "variant")
listing_shards = Tracked("write_filter_manifest", no_options, "dataset", "variant")
drawing_pictures = Tracked("draw_filter_pictures", no_options, "dataset", "variant")


localrules:
    write_filter_manifest,


checkpoint decide_filters:
    """Decide with a chain of filters which samples are kept."""
    input:
        upstream.judge_anew,
        converted=upstream.converted,
        scores=upstream.image_scores,
    output:
        decisions="results/filtered/{dataset}/{variant}/decisions.json",
    log:
        "results/logs/decide_filters/{dataset}/{variant}.log",
    benchmark:
        "results/benchmarks/decide_filters/{dataset}/{variant}.jsonl"
    threads: 2
    params:
        *deciding.params,
        options=deciding.options,
    message:
        "filter dataset {wildcards.dataset}: {wildcards.variant}"
    shell:
        r"""
        python scripts/decide_filters.py \
            --dataset {wildcards.dataset:q} \
            --variant {wildcards.variant:q} \
            --options {params.options:q} \
            --converted results/converted \
            --raw results/raw \
            --scores results/scores/{wildcards.dataset:q} \
            --decisions {output.decisions:q} \
            --threads {threads} \
            2>&1 | tee {log:q}
        """


rule write_image_shard:
    """Write the kept samples of one shard, with their media, into a WebDataset tar."""
    input:
        decisions=ancient("results/filtered/{dataset}/{variant}/decisions.json"),
    output:
        shard="results/filtered/{dataset}/{variant}/shard-{shard}.tar",
    log:
        "results/logs/write_image_shard/{dataset}/{variant}/{shard}.log",
    benchmark:
        "results/benchmarks/write_image_shard/{dataset}/{variant}/{shard}.jsonl"
    params:
        *sharding.params,
        upstream.decided_shard,
    message:
        "write image shard {wildcards.dataset} {wildcards.shard}"
    shell:
        r"""
        python scripts/write_image_shard.py \
            --dataset {wildcards.dataset:q} \
            --shard {wildcards.shard:q} \
            --decisions {input.decisions:q} \
            --converted results/converted/{wildcards.dataset:q} \
            --raw results/raw/{wildcards.dataset:q} \
            --output {output.shard:q} \
            2>&1 | tee {log:q}
        """


checkpoint write_filter_manifest:
    """List a filtered dataset's shards, counts and rejects."""
    input:
        upstream.judge_anew,
        decisions="results/filtered/{dataset}/{variant}/decisions.json",
        shards=upstream.image_shards,
    output:
        manifest="results/filtered/{dataset}/{variant}/manifest.json",
        report="results/filtered/{dataset}/{variant}/report.json",
        rejects="results/filtered/{dataset}/{variant}/rejects.jsonl",
    log:
        "results/logs/write_filter_manifest/{dataset}/{variant}.log",
    params:
        *listing_shards.params,
    message:
        "list image shards of {wildcards.dataset}"
    shell:
        r"""
        python scripts/write_filter_manifest.py \
            --decisions {input.decisions:q} \
            --folder results/filtered/{wildcards.dataset:q}/{wildcards.variant:q} \
            --manifest {output.manifest:q} \
            --report {output.report:q} \
            --rejects {output.rejects:q} \
            2>&1 | tee {log:q}
        """


rule draw_filter_pictures:
    """Draw score histograms and contact sheets of what the filters did."""
    input:
        upstream.judge_anew,
        decisions="results/filtered/{dataset}/{variant}/decisions.json",
        scores=upstream.image_scores,
    output:
        index="results/filtered/{dataset}/{variant}/pictures.json",
    log:
        "results/logs/draw_filter_pictures/{dataset}/{variant}.log",
    params:
        *drawing_pictures.params,
    message:
        "draw pictures of the filters of {wildcards.dataset}"
    shell:
        r"""
        python scripts/draw_filter_pictures.py \
            --decisions {input.decisions:q} \
            --results results \
            --index {output.index:q} \
            2>&1 | tee {log:q}
        """
