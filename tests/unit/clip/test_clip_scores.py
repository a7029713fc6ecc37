"""The scores of the CLIP filter."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from clip_models import CONFIG, PIXELS, write_hugging_face, write_open_clip
from clip_scores import scores, straight_line
from filtered import MAX_PIXELS
from raw_datasets import picture, save
from shardline import clip
from shardline.errors import DataError
from shardline.media import audit_image
from shardline.scorers import clip_quality as scorer


def test_scores_equal_a_straight_line_implementation(pictures, model):
    found = scores(pictures, model)
    assert len({row["score"] for row in found}) == len(pictures)
    for file, row in zip(pictures, found, strict=True):
        high, low = straight_line(file, model)
        expected = {"score": high - low, "high": high, "low": low}
        assert row == pytest.approx(expected, abs=1e-5)


def test_text_embeddings_are_averaged_before_they_are_brought_to_length_one():
    texts = {"a": [3.0, 0.0], "b": [0.0, 1.0]}
    toy = clip.Clip(
        embed_pixels=lambda pixels: pixels,
        embed_texts=lambda names: torch.tensor([texts[name] for name in names]),
        transform=None,
        device="cpu",
    )
    assert clip._side(toy, ["a", "b"]) == pytest.approx([0.9487, 0.3162], abs=1e-4)


def test_eight_prompts_a_side_of_our_own():
    sides = scorer.DEFAULTS["high"], scorer.DEFAULTS["low"]
    assert [len(set(side)) for side in sides] == [8, 8] and not set(sides[0]) & set(sides[1])


def test_scores_depend_neither_on_processes_nor_on_the_other_images(pictures, model):
    alone = scores(pictures, model)
    assert scores(pictures, model, threads=2) == alone
    assert scores(pictures[::-1], model)[::-1] == alone
    assert scores(pictures[4:19:5], model, threads=3) == alone[4:19:5]
    assert scores([], model) == []


def test_images_are_scored_as_people_see_them(tmp_path, model):
    """Upright, transparency on white."""
    upright = picture(3, (64, 96))
    save(upright, tmp_path / "a.png")
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(turned, tmp_path / "b.png", exif=exif)
    clear = Image.new("RGBA", (64, 64), (0, 200, 0, 0))
    save(clear, tmp_path / "c.png")
    save(Image.new("RGB", (64, 64), "white"), tmp_path / "d.png")
    a, b, c, d = scores([tmp_path / f"{name}.png" for name in "abcd"], model)
    assert a == b and c == d and a != c


def test_a_hugging_face_folder_gives_what_its_own_model_does(tmp_path):
    folder = write_hugging_face(tmp_path / "hf")
    from torchvision import transforms
    from transformers import CLIPModel, CLIPTokenizerFast

    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.png")
        save(picture(number, (48, 48)), files[-1])
    prompts = {"high": ["one whole vase", "a jar"], "low": ["sherds"]}
    net = CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizerFast.from_pretrained(folder)
    prepare = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(PIXELS["mean"], PIXELS["std"])]
    )
    with torch.no_grad():
        sides = {}
        for name, texts in prompts.items():
            each = [
                net.text_projection(net.text_model(**tokenizer(text, return_tensors="pt"))[1])
                for text in texts
            ]
            sides[name] = torch.nn.functional.normalize(torch.cat(each).mean(0), dim=0)
        for file, row in zip(files, scores(files, folder, **prompts), strict=True):
            pixels = prepare(Image.open(file))[None]
            embedding = net.visual_projection(net.vision_model(pixels)[1])[0]
            embedding = embedding / embedding.norm()
            expected = {name: float(embedding @ side) for name, side in sides.items()}
            assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert sides["high"] @ sides["low"] < 0.999


def test_folders_without_a_clip_model_are_named(pictures, tmp_path, model):
    with pytest.raises(DataError, match="holds no CLIP model: it needs open_clip_config"):
        scores(pictures[:1], tmp_path)
    pickled = write_open_clip(tmp_path / "pickled")
    weights = pickled / "open_clip_model.safetensors"
    weights.rename(pickled / "open_clip_pytorch_model.bin")
    with pytest.raises(DataError, match="holds no CLIP model"):
        scores(pictures[:1], pickled)
    broken = write_open_clip(tmp_path / "broken")
    (broken / weights.name).write_bytes((model / weights.name).read_bytes()[:1000])
    with pytest.raises(DataError, match="broken: the CLIP model does not load"):
        scores(pictures[:1], broken)
    other = {**CONFIG, "embed_dim": 16}
    config = {"model_cfg": other, "preprocess_cfg": PIXELS}
    (model.parent / "other").mkdir()
    for file in model.iterdir():
        (model.parent / "other" / file.name).write_bytes(file.read_bytes())
    (model.parent / "other/open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="other: the CLIP model does not load"):
        scores(pictures[:1], model.parent / "other")


def test_real_pictures_that_pass_the_audit_have_a_score(shared_data, model):
    """Every image that the audit takes can be scored, whatever its mode."""
    files = [
        file
        for name in ("tricky_pillow", "quality_filtering")
        for file in sorted((shared_data / name).iterdir())
        if file.is_file() and not audit_image(str(file), MAX_PIXELS).reason
    ]
    found = scores(files, model, threads=2)
    assert len(files) > 20
    assert all(-2 <= row["score"] <= 2 for row in found)
    flat = [row["score"] for row in found]
    assert len(set(flat)) > len(files) // 2
