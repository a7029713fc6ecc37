"""The report of a recipe, and the targets that users name.

Needs: scores, exports, pictures of the filters and the manifests of every stage.
Makes: results/reports/<recipe>/{index.html,summary.json,MODEL_CARD.md}.
"""

reporting = Tracked("write_report", project.report, "recipe")


localrules:
    write_report,


rule write_report:
    """Write what happened, from raw counts to scores, as one page."""
    input:
        upstream.judge_anew,
        scores=upstream.scores,
        exports=upstream.exports,
        pictures=upstream.filter_pictures,
    output:
        page="results/reports/{recipe}/index.html",
        summary="results/reports/{recipe}/summary.json",
        card="results/reports/{recipe}/MODEL_CARD.md",
    log:
        "results/logs/write_report/{recipe}.log",
    params:
        *reporting.params,
        options=reporting.options,
    message:
        "report {wildcards.recipe}"
    shell:
        r"""
        python scripts/write_report.py \
            --options {params.options:q} \
            --results results \
            --output {output.page:q} \
            --summary {output.summary:q} \
            --card {output.card:q} \
            2>&1 | tee {log:q}
        """


rule data:
    """Filtered image shards, and pictures of the filters, of every dataset to train on."""
    input:
        [paths.filtered(*key) for key in project.decide],
        [paths.filter_pictures(*key) for key in project.decide],
        [paths.converted(*key) for key in project.convert],


rule tokens:
    """Token shards of every dataset that the recipes train on."""
    input:
        [paths.tokens(*key) for key in project.tokenize],


rule plans:
    """Plans of every stage."""
    input:
        [paths.plan(*key) for key in project.plan],
        [paths.validation_plan(*key) for key in project.plan_validation],


rule train:
    """Every training stage."""
    input:
        [paths.result(*key) for key in project.train],


rule models:
    """Every exported model."""
    input:
        project.export_paths(),


rule evals:
    """Every score."""
    input:
        [paths.scores(*key) for key in project.score],


rule reports:
    """Every recipe's report."""
    input:
        [paths.report(*key) for key in project.report],
