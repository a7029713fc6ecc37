"""The report: its figures add up, its page is self-contained and escaped, its bytes repeat."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

import results_tree
import write_report
from converted_rows import write_rows
from data_tree import BENCHMARK, FILTERED, TOKENS, TRAIN
from results_tree import ResultsTree
from shardline.errors import DataError
from shardline.files import read_json, read_jsonl, write_json, write_jsonl
from shardline.reporting.artefacts import Artefacts
from shardline.reporting.curves import stage_curves
from shardline.reporting.pictures import predictions, training_samples


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished recipe's results; tests that change it take a copy."""
    results = tmp_path_factory.mktemp("finished") / "results"
    ResultsTree(results).write()
    return results


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished results."""
    return Path(shutil.copytree(finished, tmp_path / "results"))


def report(results: Path, options: dict | None = None) -> tuple[dict, str, str]:
    """Write the report; returns summary, page and card."""
    folder = results / "reports" / "demo"
    write_report.main(
        [
            f"--options={json.dumps(options or results_tree.options())}",
            f"--results={results}",
            f"--output={folder / 'index.html'}",
            f"--summary={folder / 'summary.json'}",
            f"--card={folder / 'MODEL_CARD.md'}",
        ]
    )
    page = (folder / "index.html").read_text()
    return read_json(folder / "summary.json"), page, (folder / "MODEL_CARD.md").read_text()


def shown_text(page: str) -> str:
    """What a reader sees of a page, spaces folded."""
    body = re.sub(r"(?s)<style>.*?</style>", "", page)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_summary_has_the_contract_s_scores_counts_and_seconds(finished: Path) -> None:
    summary, _, _ = report(finished)
    for model in ("base", "sft", "adapt"):
        scores = read_json(finished / f"evals/demo/{model}/{BENCHMARK}/scores.json")
        found = summary["scores"][BENCHMARK][model]
        assert {key: found[key] for key in ("accuracy", "n", "low", "high", "macro")} == {
            key: scores[key] for key in ("accuracy", "n", "low", "high", "macro")
        }
    stages = summary["stages"]
    assert stages[f"convert/{BENCHMARK}"]["reasons"] == {"image missing": 2}
    assert stages[f"filter/{TRAIN}"]["rejected"] == 1
    assert stages[f"filter/{TRAIN}"]["seconds"] == pytest.approx(3.0)
    assert stages["plan/sft"]["in"] == stages[f"tokens/{TRAIN}"]["kept"] == 11
    assert stages["plan/sft"]["drawn"] == 6400
    assert stages["train/adapt"]["key"] == "adapt0000"
    assert stages["train/sft"]["seconds"] == pytest.approx(171.4)
    assert stages["evaluate/base/screens_test"]["seconds"] is None
    assert set(stages["export/adapt"]["bytes"]) == {"adapter", "merged"}
    for entry in stages.values():
        if "kept" in entry:
            assert entry["in"] == entry["kept"] + entry["rejected"]


def test_a_plan_is_told_in_updates_of_its_reference(finished: Path) -> None:
    options = results_tree.options()
    options["stages"][0]["reference_samples"] = 40
    summary, page, _ = report(finished, options)
    plan = summary["stages"]["plan/sft"]
    assert plan["equivalent"]["updates"] == plan["drawn"] / 40 == 160
    assert summary["stages"]["plan/adapt"]["equivalent"] is None
    assert "as 160 updates of 40" in shown_text(page)


def test_a_score_on_items_that_chose_the_checkpoint_is_marked(results: Path) -> None:
    options = results_tree.options()
    options["stages"][0] |= {"export_from": "best", "chosen_on": [TRAIN]}
    options["stages"][1] |= {"export_from": "best", "chosen_on": [BENCHMARK]}
    path = results / "checkpoints/demo/adapt/result.json"
    watched = {"every": 50, "datasets": [BENCHMARK], "held_out": False, "samples": 7}
    result = read_json(path) | {"validation": watched, "steps": 150}
    result |= {"best": {"step": 100, "validation_loss": 0.512}, "stopped_early": "it was in vain"}
    write_json(path, result)
    merged = results / "models/demo/adapt/merged.json"
    write_json(merged, read_json(merged) | {"export_from": "best", "step": 100})
    journal = ResultsTree(results).work("adapt") / "metrics.jsonl"
    with open(journal, "a") as file:
        for step in (50, 100, 150):
            metrics = {"validation/loss": 0.5, f"validation/loss/{BENCHMARK}": 0.5}
            file.write(json.dumps({"step": step, "time": 1.7e9, "metrics": metrics}) + "\n")
    summary, page, card = report(results, options)
    scores = summary["scores"][BENCHMARK]
    assert {model: score["selected_on_test"] for model, score in scores.items()} == {
        "base": False,
        "sft": False,
        "adapt": True,
    }
    text = shown_text(page)
    assert (
        f"Validated every 50 steps on 7 samples of {BENCHMARK}. The lowest validation loss is "
        "0.5120, at step 100. The training ended early, at step 150: it was in vain. The exported "
        "model is that of step 100." in text
    )
    accuracy = f"{100 * scores['adapt']['accuracy']:.1f} %"
    assert f"adapt selected on test {accuracy}" in text and "sft selected" not in text
    assert "adapt was selected on test: it, or a model that it was trained from, was chosen" in text
    assert page.count("<title>validation loss</title>") == 1
    assert "| adapt (selected on test) |" in card
    assert f"On {BENCHMARK} this model was selected on test: it" in card
    front = yaml.safe_load(card.split("---")[1])
    assert front["model-index"][0]["results"][0]["metrics"][0]["name"].endswith("selected on test")


def test_improvement_compares_the_last_stage_with_the_base_item_by_item(finished: Path) -> None:
    summary, _, _ = report(finished)
    gain = summary["improvement"][BENCHMARK]
    items = {
        model: {
            row["item"]: row["hit"]
            for row in read_jsonl(finished / f"evals/demo/{model}/{BENCHMARK}/items.jsonl")
        }
        for model in ("base", "adapt")
    }
    won = sum(items["adapt"][item] > items["base"][item] for item in items["base"])
    lost = sum(items["adapt"][item] < items["base"][item] for item in items["base"])
    assert (gain["from"], gain["to"], gain["intervals_touch"]) == ("base", "adapt", False)
    assert (gain["gained"], gain["lost"]) == (won, lost)
    assert gain["difference"] == pytest.approx((won - lost) / len(items["base"]))


def test_page_shows_the_summary_s_figures(finished: Path) -> None:
    summary, page, card = report(finished)
    text = shown_text(page)
    for model, score in summary["scores"][BENCHMARK].items():
        row = f"{model} {100 * score['accuracy']:.1f} % "
        row += f"{100 * score['low']:.1f} % – {100 * score['high']:.1f} % {score['n']}"
        assert row in text
        assert row.replace(f"{model} ", f"| {model} | ", 1).split(" – ")[0] in card.replace(
            " % | ", " % "
        )
    for place, entry in summary["stages"].items():
        if entry["seconds"] is not None:
            assert place in text
    for gate in summary["gates"]:
        assert gate["detail"] in text
    assert f"{summary['stages'][f'tokens/{TRAIN}']['tokens']:,} tokens" in text


def test_all_gates_of_the_recipe_are_listed_and_passed(finished: Path) -> None:
    summary, _, _ = report(finished)
    gates = {(gate["name"], gate["stage"]): gate for gate in summary["gates"]}
    assert set(gates) == {
        ("audit", f"convert/{TRAIN}"),
        ("audit", f"convert/{BENCHMARK}"),
        ("overlap", f"filter/{TRAIN}"),
        *((name, f"plan/{s}") for name in ("preflight",) for s in ("sft", "adapt")),
        *((n, f"train/{s}") for n in ("packing parity", "freeze audit") for s in ("sft", "adapt")),
        *(("merge parity", f"export/{s}") for s in ("sft", "adapt")),
        ("licence", "report"),
    }
    assert all(gate["passed"] is True for gate in gates.values())


def test_a_failed_gate_and_an_unknown_licence_are_said(results: Path) -> None:
    path = results / "checkpoints/demo/sft/result.json"
    result = read_json(path)
    result["gates"]["freeze_audit"] = {"passed": False, "moved": {"vision": True}}
    path.write_text(json.dumps(result))
    options = results_tree.options() | {"base_licence": "unknown"}
    summary, page, card = report(results, options)
    failed = {gate["name"] for gate in summary["gates"] if gate["passed"] is False}
    assert failed == {"freeze audit", "licence"}
    assert shown_text(page).count("failed ") >= 2
    assert "The gate freeze audit (train/sft) failed." in card
    assert yaml.safe_load(card.split("---")[1])["license"] == "unknown"


def test_second_run_gives_the_same_bytes(results: Path) -> None:
    report(results)
    files = sorted((results / "reports/demo").iterdir())
    first = {file.name: file.read_bytes() for file in files}
    report(results)
    assert {file.name: file.read_bytes() for file in files} == first
    assert set(first) == {"index.html", "summary.json", "MODEL_CARD.md"}


def test_page_asks_for_nothing_outside_itself(finished: Path) -> None:
    _, page, _ = report(finished)
    addresses = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert addresses
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert "<script" not in page
    assert "@import" not in page
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in page


def test_text_of_data_and_models_is_escaped(results: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)> {{ 7 * 7 }} ```"
    for model in ("base", "adapt"):
        path = results / f"evals/demo/{model}/{BENCHMARK}/items.jsonl"
        rows = [row | {"answer": evil, "question": evil} for row in read_jsonl(path)]
        write_jsonl(path, rows)
    for name in (TRAIN, BENCHMARK):
        shard = results / f"converted/{name}/samples-00000.jsonl.zst"
        rows = list(read_jsonl(shard))
        for row in rows:
            row["boxes"][0]["label"] = evil
        write_rows(shard, rows)
    options = results_tree.options() | {"title": evil, "description": evil}
    _, page, card = report(results, options)
    for text in (page, card.split("```python")[0]):
        assert "<script" not in text
        assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "49" not in re.findall(r"onerror=alert\(1\)&gt; (\S+)", page)
    code = card.split("```python\n")[1].split("\n```\n")[0]
    compile(code, "card", "exec")


def test_secrets_in_the_recipe_reach_no_file(results: Path) -> None:
    options = results_tree.options()
    options["config"] |= {"hub": {"token": "hf_" + "a1" * 12}, "proxy": "https://me:pw@host/x"}
    options["base_source"] = "https://me:pw@host/model"
    summary, page, card = report(results, options)
    for text in (json.dumps(summary), page, card):
        assert "a1a1a1" not in text
        assert "me:pw" not in text
    assert summary["config"]["tokens"] == options["config"]["tokens"]


def test_nothing_built_yet_gives_a_page_of_plain_lines(tmp_path: Path) -> None:
    summary, page, card = report(tmp_path / "results")
    text = shown_text(page)
    assert summary["scores"] == {BENCHMARK: {}}
    assert summary["stages"] == {}
    for line in ("No model of this recipe was scored.", "No job was timed.", "No samples to show."):
        assert line in text
    assert "This stage has no result yet." in text
    assert "not run" in text
    assert "No score was measured for this model." in card


def test_a_lost_image_and_a_lost_journal_are_said(results: Path) -> None:
    shutil.rmtree(results / "raw" / BENCHMARK / "images")
    shutil.rmtree(ResultsTree(results).work("sft").parent)
    _, page, _ = report(results)
    text = shown_text(page)
    assert "the image images/" in text
    assert "The stage's journal is gone, so there is no curve to draw." in text


def test_a_broken_file_is_an_error_that_names_it(results: Path) -> None:
    path = results / f"evals/demo/sft/{BENCHMARK}/scores.json"
    path.write_text("{")
    with pytest.raises(DataError, match=r"evals/demo/sft/screens_test/scores\.json"):
        report(results)


def test_samples_shown_are_ones_the_filters_kept(results: Path) -> None:
    decisions = results / f"filtered/{TRAIN}/{FILTERED}/decisions-00000-png.jsonl"
    rows = [row | {"kept": row["id"].endswith("#7")} for row in read_jsonl(decisions)]
    write_jsonl(decisions, rows)
    scenes = training_samples(TRAIN, FILTERED, Artefacts(results))
    assert [scene.title for scene in scenes] == ["annotations.json#7"]
    sample = list(read_jsonl(results / f"converted/{TRAIN}/samples-00000.jsonl.zst"))[7]
    left, top, right, bottom = sample["boxes"][0]["xyxy"]
    width, height = sample["media"][0]["width"], sample["media"][0]["height"]
    expected = [left * width, top * height, (right - left) * width, (bottom - top) * height]
    assert scenes[0].shapes[0].values == pytest.approx(expected, abs=0.01)


def test_worst_predictions_are_misses_and_best_are_hits(finished: Path) -> None:
    groups = predictions(results_tree.options(), "adapt", BENCHMARK, Artefacts(finished))
    by_name = {group.name: group.scenes for group in groups}
    assert set(by_name) == {"Best", "Worst", "By lot"}
    assert by_name["Best"] and all(scene.hit for scene in by_name["Best"])
    assert by_name["Worst"] and not any(scene.hit for scene in by_name["Worst"])
    for scenes in by_name.values():
        assert len({scene.image for scene in scenes}) == len(scenes)
        for scene in scenes:
            kinds = [shape.kind for shape in scene.shapes]
            assert kinds.count("target") == 1
            assert ("hit" in kinds) == scene.hit


def test_two_variants_of_a_dataset_keep_both_counts(results: Path) -> None:
    options = results_tree.options()
    other = options["datasets"][0] | {"filter": "all-99887766", "tokens": "other-55667788"}
    options["datasets"].append(other)
    for kind, old, new in (
        ("filtered", FILTERED, other["filter"]),
        ("tokens", TOKENS, other["tokens"]),
    ):
        shutil.copytree(results / kind / TRAIN / old, results / kind / TRAIN / new)
    summary, _, _ = report(results, options)
    assert {f"filter/{TRAIN}/{FILTERED}", f"filter/{TRAIN}/{other['filter']}"} <= set(
        summary["stages"]
    )
    assert f"filter/{TRAIN}" not in summary["stages"]


def test_card_has_the_hub_s_front_matter_and_measured_scores(finished: Path) -> None:
    options = results_tree.options()
    options["base_source"] = "hub://Qwen/Qwen2-VL-2B-Instruct@895c3a4"
    options["datasets"][0]["source"] = "hub://showlab/ShowUI-desktop@1f00d8f"
    summary, _, card = report(finished, options)
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["base_model"] == "Qwen/Qwen2-VL-2B-Instruct"
    assert front["datasets"] == ["showlab/ShowUI-desktop"]
    assert front["pipeline_tag"] == "image-text-to-text"
    metric = front["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == summary["scores"][BENCHMARK]["adapt"]["accuracy"]
    assert "results/models/demo/adapt/merged" in card
    assert "has only 36 items" in card
    options["datasets"][0]["licence"] = "mit"
    _, _, card = report(finished, options)
    assert yaml.safe_load(card.split("---")[1])["license"] == "other"


def test_several_versions_of_a_package_are_told_apart(results: Path) -> None:
    path = results / f"converted/{BENCHMARK}/manifest.json"
    path.write_text(json.dumps(read_json(path) | {"versions": {"pillow": "12.0.0"}}))
    summary, page, _ = report(results)
    assert summary["versions"]["pillow"] == {
        "12.0.0": [f"convert/{BENCHMARK}"],
        "13.0.0": [f"convert/{TRAIN}", f"filter/{TRAIN}"],
    }
    assert f"pillow 12.0.0 convert/{BENCHMARK}" in shown_text(page)


@pytest.mark.parametrize(("share", "lines"), [(1.0, ["lr/llm"]), (0.5, ["lr/llm", "lr/vision"])])
def test_learning_rates_that_differ_have_a_line_each(
    results: Path, share: float, lines: list[str]
) -> None:
    key = "sft0000"
    journal = ResultsTree(results).work("sft", key) / "metrics.jsonl"
    rows = list(read_jsonl(journal))
    for row in rows:
        row["metrics"]["lr/vision"] = share * row["metrics"]["lr/llm"]
    write_jsonl(journal, rows)
    curves = stage_curves("demo", "sft", key, Artefacts(results))
    assert sorted(curves.rates) == lines
    assert curves.rate.count("<polyline") == len(lines)
