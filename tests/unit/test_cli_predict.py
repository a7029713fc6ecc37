"""`shardline predict`: the same answer as evaluation's, and clear errors before any model loads."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from shardline import paths
from shardline.cli.main import main
from shardline.cli.predict import find_model
from shardline.errors import UserError

IMAGE = "data/held_out/screenspotv2_image/0.png"


def words(model: str, image: str = IMAGE, *more: str) -> list[str]:
    return ["predict", "--model", model, "--image", image, "--prompt", "Save button", *more]


def test_models_are_found_by_recipe_and_stage(small_project):
    folder, options = find_model("small/adapt", None, [])
    assert folder == Path("results/models/small/adapt/merged")
    assert options["tokens"]["max_visual_tokens"] == 64
    assert (options["family"], options["task"]) == ("qwen2_vl", "grounding")
    base, same = find_model("small/base", None, [])
    assert (base / "tokenizer.json").is_file()
    assert same == options


def test_a_stages_own_token_options_are_its_models(small_project):
    Path("mine.yaml").write_text(
        "recipes: {mine: {extends: small, stages.adapt.tokens: {max_visual_tokens: 9}}}"
    )
    files = [Path("mine.yaml")]
    assert find_model("mine/adapt", None, files)[1]["tokens"]["max_visual_tokens"] == 9
    assert find_model("mine/sft", None, files)[1]["tokens"]["max_visual_tokens"] == 64


def test_an_exports_folder_knows_its_recipe(small_project):
    by_name = find_model("small/sft", None, [])
    assert find_model("results/models/small/sft/merged", None, []) == by_name


def test_another_folder_needs_a_recipe(small_project):
    with pytest.raises(UserError, match="give --recipe too"):
        find_model("data/base", None, [])
    assert find_model("data/base", "small", [])[1]["task"] == "grounding"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (words("small/sft", "no.png"), "no.png: no such image"),
        (words("small/nope"), "no stage 'nope'; its stages: sft, adapt"),
        (words("nope/sft"), "neither a folder nor <recipe>/<stage>"),
        (words("small/sft"), r"merged: no model there \(no config.json\)"),
        (words("small/sft", IMAGE, "--max-new-tokens", "0"), "at least 1"),
    ],
)
def test_errors_come_before_torch(small_project, arguments, message):
    loaded = "torch" in sys.modules
    with pytest.raises(UserError, match=message):
        main(arguments)
    assert ("torch" in sys.modules) == loaded


def test_a_broken_image_and_an_adapter_are_named(small_project):
    folder, _ = find_model("small/base", None, [])
    Path("broken.png").write_bytes(Path(IMAGE).read_bytes()[:200])
    with pytest.raises(UserError, match=r"broken.png: corrupt_image"):
        main(words("small/base", "broken.png"))
    adapter = Path("results/models/small/adapt/adapter")
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="is an adapter, which needs its base"):
        main(words(str(adapter)))
    assert folder.is_dir()


@pytest.mark.slow
def test_the_answer_is_evaluations(small_project, capsys):
    import tiny_models
    from tokenizers import Tokenizer

    import predict_benchmark
    from shardline.files import canonical_json, read_jsonl

    (base,) = [path for path in Path("results/raw/models").iterdir() if path.is_dir()]
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    folder = Path(paths.model_of_lock(paths.export("small", "sft", "merged")))
    shutil.rmtree(folder)
    tiny_models.family.build_model(tiny_models.CONFIG, tokenizer, folder, 0)
    hardware = Path("config/hardware/cpu.yaml")
    hardware.parent.mkdir()
    hardware.write_text("device: cpu\n")
    options = small_project.project.predict["small", "sft", "held_out"]
    predict_benchmark.main(
        [
            *("--options", canonical_json(options), "--model", str(folder)),
            *("--model-manifest", paths.export("small", "sft", "merged")),
            *("--converted", paths.converted("held_out"), "--raw", paths.raw("held_out")),
            *("--predictions", "predictions.jsonl"),
            *("--hardware", str(hardware), "--threads", "1"),
        ]
    )
    capsys.readouterr()
    row = next(iter(read_jsonl(Path("predictions.jsonl"))))
    image = f"data/held_out/screenspotv2_image/{row['sample'].rpartition('#')[2]}.png"
    common = ["predict", "--model", "small/sft", "--image", image, "--json"]
    main([*common, "--prompt", row["question"]])
    found = json.loads(capsys.readouterr().out)
    assert found["answer"] == row["answer"]
    assert found["new_tokens"] == row["new_tokens"]
    assert (found["width"], found["height"]) == (140, 112)
    assert found["point"] is None or found["pixel"] == [
        round(found["point"][0] * 140),
        round(found["point"][1] * 112),
    ]
    main([*common, "--prompt", "anything at all", "--raw-prompt"])
    assert "point" not in json.loads(capsys.readouterr().out)
