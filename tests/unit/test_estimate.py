"""The estimate before anything is tokenised."""

import pytest

import token_data
from shardline.errors import DataError
from shardline.estimate import estimate_stage
from shardline.families import qwen2_vl as family
from shardline.files import read_json
from shardline.samples import Box
from shardline.tasks import grounding


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    results = tmp_path_factory.mktemp("estimate") / "results"
    made = token_data.screens(25)
    made[3][0].boxes = []
    made[4][0].boxes = [Box(label="<|im_end|>", xyxy=[0, 0, 1, 1])]
    model = token_data.tokenizer_folder(results)
    manifest = token_data.tokenise(token_data.write_filtered(results, made), model)
    converted = {"screens": token_data.write_converted(results, made)}
    return results, manifest, converted, family.load_tokenizer(model)


def estimate(prepared, tokenizer, **changes):
    _, manifest, converted, _ = prepared
    return estimate_stage(
        converted,
        token_data.plan_options([manifest], **changes),
        family=family,
        task=grounding,
        tokens=token_data.OPTIONS["tokens"],
        tokenizer=tokenizer,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps": 7, "epochs": None},
        {"max_length": 100, "mixture": [{"dataset": "screens", "percent": 60}]},
        {"global_batch": {"tokens": 1024}, "epochs": 2.5},
        {"max_patches": 160, "mixture": [{"dataset": "screens", "samples": 9}]},
        {"split": {"validation": 30.0, "by": "group"}, "packing": "flatten"},
        {"packing": "given", "global_batch": {"tokens": 1024}},
    ],
)
def test_with_the_tokenizer_it_is_what_the_plan_will_be(prepared, changes):
    results, manifest, _, tokenizer = prepared
    plan = read_json(token_data.plan(results, [manifest], **changes))
    found = estimate(prepared, tokenizer, **changes)
    for key in ("samples", "epochs", "tokens", "packs", "max_packs_per_step", "steps", "fill"):
        assert found[key] == plan[key], key
    assert found["distinct"] == plan["distinct_samples"]
    assert found["visual_tokens"] == plan["patches"] // 4
    assert found["unusable"] == 2 and found["too_long"] == plan["rejected"]
    assert found["exact_text"]


def test_without_a_tokenizer_only_the_text_is_a_guess(prepared):
    exact, guess = estimate(prepared, prepared[3]), estimate(prepared, None)
    assert not guess["exact_text"]
    assert guess["steps"] == exact["steps"]
    assert guess["visual_tokens"] == pytest.approx(exact["visual_tokens"], rel=0.1)
    assert guess["tokens"] == pytest.approx(exact["tokens"], rel=0.6)


def test_nothing_left_is_an_error(prepared):
    with pytest.raises(DataError, match="no sample fits 1 tokens"):
        estimate(prepared, prepared[3], max_length=1)
