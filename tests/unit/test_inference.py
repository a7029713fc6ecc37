"""Answers: the same whatever the batch, padding on the left, the control with other images."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tiny_models
import tiny_project
import torch
from tiny_project import TOKENS

import predict_benchmark
import score_predictions
from shardline.benchmark import items, read_benchmark
from shardline.errors import ConfigError, DataError
from shardline.families import qwen2_vl as family
from shardline.files import read_json, read_jsonl
from shardline.inference import Answerer, Prompter, answer_items, benchmark_items
from shardline.tasks import grounding

NEW_TOKENS = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inference")
    tiny_models.build(folder / "model")
    tiny_project.lock_model(folder / "model")
    tiny_project.benchmark(folder)
    return folder


@pytest.fixture(scope="module")
def tools(root: Path) -> tuple[Prompter, Answerer]:
    tokenizer = family.load_tokenizer(root / "model")
    model = family.load_model(root / "model", torch.float32, "cpu")
    prompter = Prompter(family, grounding, tokenizer, TOKENS, root / "results/raw/b")
    return prompter, Answerer(model, family, tokenizer, NEW_TOKENS)


@pytest.fixture(scope="module")
def samples(root: Path) -> dict:
    return read_benchmark(root / "results/converted/b/manifest.json")


def _silent(line: str) -> None:
    """Progress is not looked at."""


def test_an_answer_does_not_depend_on_its_batch(tools: tuple, samples: dict) -> None:
    prompter, answerer = tools
    wanted = benchmark_items(samples, None, None)
    lengths = {len(prompter(item).input_ids) for item in wanted}
    assert len(lengths) > 2, "the test needs prompts of several lengths"
    alone = {item.name: answerer([prompter(item)])[0] for item in wanted}
    assert len({answer.text for answer in alone.values()}) > 3
    shuffled = random.Random(3).sample(wanted, len(wanted))
    for batch, order in ((4, wanted), (32, shuffled)):
        found = list(answer_items(order, prompter, answerer, batch, _silent))
        assert [item.name for item, _ in found] == [item.name for item in order]
        assert {item.name: answer for item, answer in found} == alone


def test_answers_are_those_of_the_stock_processor(tools: tuple, samples: dict, root: Path) -> None:
    """An image of the size it is resized to goes through the published pipeline."""
    from PIL import Image
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    prompter, answerer = tools
    item = benchmark_items(samples, None, None)[0]
    processor = AutoProcessor.from_pretrained(root / "model")
    stock = Qwen2VLForConditionalGeneration.from_pretrained(root / "model")
    messages = grounding.question(item.sample, item.index, TOKENS)
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    image = Image.open(root / "results/raw/b" / item.sample.media[0].path)
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    output = stock.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    assert answerer([prompter(item)])[0].text == processor.tokenizer.decode(
        new, skip_special_tokens=True
    )


def test_an_answer_ends_at_the_end_of_its_turn(tools: tuple) -> None:
    _, answerer = tools
    end = answerer.ends[0]
    assert answerer._answer([40, 41, end, answerer.pad, answerer.pad]).new_tokens == 3
    assert answerer._answer([40, 41]).new_tokens == 2
    assert answerer._answer([40, end, 41]).text == answerer._answer([40]).text


def test_a_limit_takes_the_same_items_spread_over_the_benchmark(samples: dict) -> None:
    everything = [item.name for item in benchmark_items(samples, None, None)]
    assert everything == [name for name, _, _ in items(samples)]
    five = [item.name for item in benchmark_items(samples, 5, None)]
    seven = [item.name for item in benchmark_items(samples, 7, None)]
    assert len(five) == 5 and set(five) < set(seven)
    assert five == [name for name in everything if name in five]
    assert five != everything[:5]
    assert len(benchmark_items(samples, 1000, None)) == len(everything)


def test_shuffled_images_are_never_ones_own(samples: dict) -> None:
    shuffled = benchmark_items(samples, None, 7)
    for item in shuffled:
        assert item.pictured.media[0].sha256 != item.sample.media[0].sha256
    assert {item.sample.id: item.pictured.id for item in shuffled} == {
        item.sample.id: item.pictured.id for item in benchmark_items(samples, None, 7)
    }
    first = next(iter(samples))
    with pytest.raises(ConfigError, match="one image"):
        benchmark_items({first: samples[first]}, None, 7)


def test_a_missing_image_is_named(tools: tuple, samples: dict, tmp_path: Path) -> None:
    prompter, _ = tools
    elsewhere = Prompter(family, grounding, prompter.tokenizer, TOKENS, tmp_path)
    with pytest.raises(DataError, match=r"images/0\.png: missing since"):
        elsewhere(benchmark_items(samples, None, None)[0])


def _predict(root: Path, name: str, *more: str) -> Path:
    predictions = root / f"results/evals/r/{name}/b/predictions.jsonl"
    hardware = root / "cpu.yaml"
    hardware.write_text("device: cpu\ngeneration_batch: 4\n")
    options = {
        "family": "qwen2_vl",
        "task": "grounding",
        "tokens": TOKENS,
        "max_new_tokens": NEW_TOKENS,
        "limit": None,
    }
    predict_benchmark.main(
        [
            *("--options", json.dumps(options), "--model", str(root / "model")),
            *("--model-manifest", str(root / "model.lock.json")),
            *("--converted", str(root / "results/converted/b/manifest.json")),
            *("--raw", str(root / "results/raw/b"), "--predictions", str(predictions)),
            *("--hardware", str(hardware), "--threads", "1", *more),
        ]
    )
    return predictions


def test_the_programs_predict_and_score(root: Path, samples: dict) -> None:
    predictions = _predict(root, "base")
    lines = list(read_jsonl(predictions))
    assert [line["item"] for line in lines] == [name for name, _, _ in items(samples)]
    assert set(lines[0]) == {"item", "sample", "question", "answer", "seen", "new_tokens"}
    before = predictions.read_bytes()
    assert _predict(root, "base").read_bytes() == before
    assert _predict(root, "control", "--shuffle-images", "1").read_bytes() != before

    scores = predictions.with_name("scores.json")
    options = {"metric": "point_in_box", "task": "grounding", "tokens": TOKENS, "plugins": []}
    score_predictions.main(
        [
            *("--options", json.dumps(options), "--predictions", str(predictions)),
            *("--converted", str(root / "results/converted/b/manifest.json")),
            *("--scores", str(scores), "--items", str(predictions.with_name("items.jsonl"))),
        ]
    )
    found = read_json(scores)
    assert (found["model"], found["benchmark"], found["metric"]) == ("base", "b", "point_in_box")
    assert found["n"] == found["items"] == len(lines)
    assert found["missing"] == 2
    assert set(found["cells"]) == {"web/icon", "web/text"}
    assert len(list(read_jsonl(predictions.with_name("items.jsonl")))) == len(lines)


def test_a_changed_benchmark_is_refused(root: Path, tmp_path: Path) -> None:
    manifest, _ = tiny_project.benchmark(tmp_path, 3)
    (manifest.parent / "samples-00000.jsonl.zst").write_bytes(b"")
    with pytest.raises(DataError, match="changed since"):
        read_benchmark(manifest)
