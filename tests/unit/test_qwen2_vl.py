"""The Qwen2-VL family against transformers: equal ids, grids, positions and pixels."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoProcessor, AutoTokenizer, Qwen2VLForConditionalGeneration

import build_model
import token_data
from shardline.errors import ConfigError, DataError, SampleError
from shardline.families import qwen2_vl as family
from shardline.files import read_json
from shardline.images import decode_rgb
from shardline.locks import verify
from shardline.placeholders import placeholder_ids
from shardline.qwen_vision import IMAGE_STD
from shardline.tasks import grounding

CONFIG = {
    "seed": 3,
    "tokenizer": {"vocab_size": 330},
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.1,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1_000_000.0,
            "mrope_section": [2, 3, 3],
        },
    },
    "vision_config": {
        "depth": 1,
        "embed_dim": 32,
        "hidden_size": 64,
        "num_heads": 2,
        "mlp_ratio": 2,
        "initializer_range": 0.05,
    },
    "image_processor": {"min_pixels": 4 * 784, "max_pixels": 64 * 784},
}


def build(results, config=CONFIG, name="tiny"):
    raw = results / "raw" / "models" / name
    arguments = {
        "model": name,
        "options": json.dumps({**token_data.OPTIONS, "config": config}),
        "converted": results / "converted" / "screens" / "manifest.json",
        "raw": raw,
        "lock": raw.with_name(f"{name}.lock.json"),
        "files": raw.with_name(f"{name}.files.tsv"),
    }
    build_model.main(token_data.command_line(arguments))
    return raw


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "results"
    token_data.write_converted(folder, token_data.screens(20))
    return folder


@pytest.fixture(scope="module")
def model_folder(results):
    return build(results)


@pytest.fixture(scope="module")
def model(model_folder):
    return Qwen2VLForConditionalGeneration.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def processor(model_folder):
    return AutoProcessor.from_pretrained(model_folder)


@pytest.mark.parametrize(
    ("width", "height", "low", "high", "resized", "tokens"),
    [
        (1920, 1080, 256, 1344, (1344, 756), 1296),
        (2560, 1440, 256, 1344, (1344, 756), 1296),
        (960, 540, 256, 1344, (952, 532), 646),
        (1170, 2532, 256, 1344, (672, 1484), 1272),
        (28, 28, 4, 64, (56, 56), 4),
        (10, 1000, 4, 64, (28, 560), 20),
        (1, 200, 4, 64, (28, 812), 29),
        (640, 480, 16, 576, (644, 476), 391),
        (1920, 1080, 16, 576, (896, 504), 576),
        (1920, 1080, 16, 1280, (1316, 728), 1222),
    ],
)
def test_smart_resize(width, height, low, high, resized, tokens):
    grid = family.image_grid(width, height, low, high)
    assert (grid[2] * 14, grid[1] * 14) == resized
    assert family.visual_tokens(grid) == tokens == resized[0] * resized[1] // 784
    assert family.resize_image(np.zeros((height, width, 3), np.uint8), grid).shape == (
        *resized[::-1],
        3,
    )


def test_grids_are_the_published_processors():
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    random = np.random.default_rng(0)
    for width, height in random.integers(1, 3000, (3000, 2)).tolist():
        for low, high in ((4, 64), (256, 1344), (4, 16384)):
            try:
                rows, columns = smart_resize(height, width, 28, low * 784, high * 784)
            except ValueError:
                with pytest.raises(SampleError):
                    family.image_grid(width, height, low, high)
                continue
            assert family.image_grid(width, height, low, high) == (1, rows // 14, columns // 14)


def conversation_of(images):
    content = [{"type": "text", "text": "Where?"}]
    for number in range(images):
        content += [{"type": "image"}, {"type": "text", "text": f"screen {number}"}]
    return [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "[0.65, 0.37]"}]},
    ]


@pytest.mark.parametrize("images", [0, 1, 2, 3])
def test_ids_labels_grids_and_positions_are_the_processors(model, processor, model_folder, images):
    sizes = [(300, 200), (64, 500), (111, 87)][:images]
    random = np.random.default_rng(images)
    pictures = [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]
    messages = conversation_of(images)
    text = processor.apply_chat_template(messages, tokenize=False)
    assert text == "".join(segment.text for segment in family.render(messages))
    theirs = processor(text=[text], images=pictures or None, return_tensors="pt")

    tokenizer = family.load_tokenizer(model_folder)
    placeholder = placeholder_ids(tokenizer, family)
    grids = [family.image_grid(*size, 4, 64) for size in sizes]
    ids, labels = family.expand(*family.encode(tokenizer, messages), grids, placeholder)
    assert ids.tolist() == theirs["input_ids"][0].tolist()
    assert processor.tokenizer.decode(labels[labels != -100]) == "[0.65, 0.37]<|im_end|>"
    if images:
        assert theirs["image_grid_thw"].tolist() == [list(grid) for grid in grids]
    types = (theirs["input_ids"] == placeholder[0]).long()
    positions, _ = model.model.get_rope_index(
        theirs["input_ids"],
        mm_token_type_ids=types,
        image_grid_thw=theirs.get("image_grid_thw"),
    )
    ours = family.positions(ids, grids, placeholder)
    assert ours.dtype == np.int64 and np.array_equal(ours, positions[:, 0].numpy())

    if images:
        resized = [
            family.resize_image(np.array(picture), grid)
            for picture, grid in zip(pictures, grids, strict=True)
        ]
        small = [Image.fromarray(pixels) for pixels in resized]
        exact = processor(text=[text], images=small, return_tensors="pt")
        inputs = family.vision_inputs(
            [torch.from_numpy(image) for image in resized], grids, "cpu", torch.float32
        )
        assert torch.equal(inputs["pixel_values"], exact["pixel_values"])
        assert torch.equal(inputs["image_grid_thw"], exact["image_grid_thw"])
        assert close(inputs["pixel_values"], theirs["pixel_values"])


def close(one, other):
    """Whether pixels are within one uint8 step, but for one in 100,000 that may be two off.

    Pillow weighs with 22 bits, torchvision's uint8 kernel with 16: Pillow is nearer the exact sum.
    """
    scale = torch.tensor(IMAGE_STD)[:, None] * 255
    steps = ((one - other).abs().reshape(-1, 3, 392) * scale).round()
    return steps.max() <= 2 and (steps > 1).float().mean() < 1e-5


def test_pixels_of_real_screens_are_within_one_step(processor, shared_data):
    files = [
        *sorted((shared_data / "agentnetbench_trajectories" / "images").glob("*.png"))[:2],
        *sorted((shared_data / "screenspot_v2").rglob("*.png")),
    ]
    assert len(files) > 2
    for file in files:
        image = decode_rgb(file.read_bytes())
        grid = family.image_grid(*image.size, 256, 1344)
        resized = torch.from_numpy(family.resize_image(np.array(image), grid))
        ours = family.vision_inputs([resized], [grid], "cpu", torch.float32)
        theirs = processor.image_processor(
            images=[image],
            size={"shortest_edge": 256 * 784, "longest_edge": 1344 * 784},
            return_tensors="pt",
        )
        assert theirs["image_grid_thw"].tolist() == [list(grid)]
        assert close(ours["pixel_values"], theirs["pixel_values"])


def test_no_images_are_no_inputs_and_an_image_fits_its_grid():
    assert family.vision_inputs([], [], "cpu", torch.bfloat16) == {}
    with pytest.raises(DataError, match="for the grid 2x2"):
        family.vision_inputs([torch.zeros(28, 42, 3, dtype=torch.uint8)], [(1, 2, 2)], "cpu", None)


def test_expanding_checks_the_media():
    ids = np.array([5, 9, 6, 9], dtype=np.int32)
    out, labels = family.expand(ids, ids * 0 - 100, [(1, 2, 4), (1, 2, 2)], [9])
    assert out.tolist() == [5, 9, 9, 6, 9] and len(labels) == 5
    with pytest.raises(DataError, match="2 placeholders for 1 media"):
        family.expand(ids, ids, [(1, 2, 2)], [9])
    with pytest.raises(DataError, match="2 placeholders where the media have 3"):
        family.positions(ids, [(1, 2, 2), (1, 2, 4)], [9])


def test_a_built_model_is_stock_and_speaks_our_template(model_folder, processor):
    model, report = Qwen2VLForConditionalGeneration.from_pretrained(
        model_folder, output_loading_info=True
    )
    assert not any(report.values())
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    messages = conversation_of(2)
    text = "".join(segment.text for segment in family.render(messages, generation_prompt=True))
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        text
    )
    assert tokenizer.chat_template == processor.chat_template == family.chat_template()
    for token in family.SPECIAL_TOKENS:
        number = family.load_tokenizer(model_folder).token_to_id(token)
        assert (
            tokenizer.convert_tokens_to_ids(token) == number < model.config.text_config.vocab_size
        )
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.image_token_id == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    inputs = processor(text=["Where?"], return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2).shape[1] > inputs["input_ids"].shape[1]


def test_building_again_gives_the_same_bytes_and_a_lock(results, model_folder):
    lock = model_folder.with_name("tiny.lock.json")
    before = token_data.files_under(model_folder.parent)
    assert verify(lock, model_folder) == [] and read_json(lock)["kind"] == "model"
    build(results)
    assert token_data.files_under(model_folder.parent) == before


def test_the_initial_spread_reaches_every_module_and_the_seed_matters(results, model_folder):
    weights = load_file(model_folder / "model.safetensors")
    other = load_file(build(results, {**CONFIG, "seed": 4}, "other") / "model.safetensors")
    seen = set()
    for name, values in weights.items():
        module = family.module_of(name)
        if values.ndim > 1:
            seen.add(module)
            expected = 0.1 if module == "llm" else 0.05
            assert values.std() == pytest.approx(expected, rel=0.1), name
            assert not np.array_equal(values, other[name])
        else:
            assert set(values.tolist()) <= {0.0, 1.0}
    assert seen == {"llm", "projector", "vision"}


def test_one_initializer_range_can_serve_all(results):
    config = json.loads(json.dumps(CONFIG))
    del config["text_config"]["initializer_range"], config["vision_config"]["initializer_range"]
    weights = load_file(
        build(results, {**config, "initializer_range": 0.3}, "wide") / "model.safetensors"
    )
    assert all(
        values.std() == pytest.approx(0.3, rel=0.1)
        for values in weights.values()
        if values.ndim > 1
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"vision_config": {**CONFIG["vision_config"], "patch_size": 16}}, "patch_size must be 14"),
        ({"text_config": {**CONFIG["text_config"], "hidden_size": "big"}}, "transformers refuses"),
    ],
)
def test_a_wrong_model_config_is_a_config_error(results, change, message):
    with pytest.raises(ConfigError, match=message):
        build(results, {**CONFIG, **change}, "wrong")
    assert not (results / "raw" / "models" / "wrong.lock.json").exists()


def test_modules_and_their_linear_layers(model):
    assert family.module_of("model.visual.merger.mlp.0.weight") == "projector"
    assert family.module_of("base_model.model.model.visual.blocks.0.attn.qkv.weight") == "vision"
    assert family.module_of("lm_head.weight") == family.module_of("model.norm.weight") == "llm"
    targets = {part: family.lora_targets(model, part) for part in ("llm", "projector", "vision")}
    assert len(targets["llm"]) == 2 * 7 and "lm_head" not in targets["llm"]
    assert targets["projector"] == ["model.visual.merger.mlp.0", "model.visual.merger.mlp.2"]
    assert len(targets["vision"]) == 4
    assert not [name for name in targets["llm"] if "visual" in name]


def test_loading_for_training_is_complete_or_fails(model_folder, tmp_path):
    import shardline.attention  # noqa: F401  (registers the attention that the family names)

    model = family.load_model(model_folder, torch.float32, "cpu")
    assert model.config.text_config._attn_implementation == family.ATTENTION
    assert not model.config.use_cache and not model.config.text_config.use_cache
    import shutil

    from safetensors.numpy import save_file

    shutil.copytree(model_folder, tmp_path / "broken")
    weights = load_file(model_folder / "model.safetensors")
    gone = next(name for name in weights if "down_proj" in name)
    del weights[gone]
    save_file(weights, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="missing keys"):
        family.load_model(tmp_path / "broken", torch.float32, "cpu")


def test_a_tokenizer_without_the_special_tokens_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        family.load_tokenizer(tmp_path)
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    Tokenizer(BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="not a Qwen-VL tokenizer"):
        family.load_tokenizer(tmp_path)


def test_light_programs_import_no_torch():
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import tokenize_shard, plan_stage, "
        "write_token_manifest, shardline.estimate, shardline.plan_file; "
        "from shardline import registry; "
        "[registry.load(kind, name) for kind in ('families', 'tasks') "
        "for name in registry.names(kind)]; "
        "sys.exit(bool({'torch', 'transformers', 'av'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_task_and_family_agree_on_what_a_model_is_asked(model_folder):
    sample, _ = token_data.screens(1)[0]
    tokenizer = family.load_tokenizer(model_folder)
    options = token_data.OPTIONS["tokens"]
    trained, _ = family.encode(tokenizer, grounding.conversation(sample, options))
    asked, _ = family.encode(
        tokenizer, grounding.question(sample, 0, options), generation_prompt=True
    )
    assert trained[: len(asked)].tolist() == asked.tolist()
