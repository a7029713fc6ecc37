"""The Qwen-VL chat format: text equal to the template's, loss on answers alone."""

import jinja2
import numpy as np
import pytest

from shardline.errors import DataError, SampleError
from shardline.qwen_chat import (
    SPECIAL_TOKENS,
    chat_template,
    encode,
    render,
    train_tokenizer,
)

TWO_TURNS = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Where is it? "},
            {"type": "image"},
            {"type": "text", "text": "Save's\n\nbutton é 設定 "},
        ],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "[0.65, 0.37]"}]},
    {"role": "user", "content": "Page 12"},
    {"role": "assistant", "content": "[0.5, 0.0]"},
]
BY_HAND = (
    "<|im_start|>user\nWhere is it? <|vision_start|><|image_pad|><|vision_end|>"
    "Save's\n\nbutton é 設定 <|im_end|>\n<|im_start|>assistant\n[0.65, 0.37]<|im_end|>\n"
    "<|im_start|>user\nPage 12<|im_end|>\n<|im_start|>assistant\n[0.5, 0.0]<|im_end|>\n"
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TWO_TURNS] * 4, 340)


@pytest.mark.parametrize("generation_prompt", [False, True])
def test_rendered_text_is_the_templates(generation_prompt):
    text = "".join(segment.text for segment in render(TWO_TURNS, generation_prompt))
    assert text == BY_HAND + "<|im_start|>assistant\n" * generation_prompt
    # with and without the white-space options that transformers sets
    for trimmed in (False, True):
        environment = jinja2.Environment(trim_blocks=trimmed, lstrip_blocks=trimmed)
        template = environment.from_string(chat_template())
        assert text == template.render(messages=TWO_TURNS, add_generation_prompt=generation_prompt)


def test_labels_are_exactly_the_answers_and_their_ends(tokenizer):
    ids, labels = encode(tokenizer, TWO_TURNS)
    assert ids.dtype == labels.dtype == np.int32 and len(ids) == len(labels)
    learned = labels != -100
    assert (labels[learned] == ids[learned]).all()
    text = tokenizer.decode(labels[learned].tolist(), skip_special_tokens=False)
    assert text == "[0.65, 0.37]<|im_end|>[0.5, 0.0]<|im_end|>"


def test_a_question_is_a_prefix_of_what_was_trained(tokenizer):
    asked, labels = encode(tokenizer, TWO_TURNS[:1], generation_prompt=True)
    trained, _ = encode(tokenizer, TWO_TURNS)
    assert asked.tolist() == trained[: len(asked)].tolist()
    assert (labels == -100).all()


def test_one_placeholder_an_image_and_digits_split_singly(tokenizer):
    ids, _ = encode(tokenizer, TWO_TURNS)
    assert (ids == tokenizer.token_to_id("<|image_pad|>")).sum() == 1
    assert not [token for token in tokenizer.get_vocab() if sum(map(str.isdigit, token)) > 1]


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|im_end|>", "<|endoftext|>", "<|box_start|>"])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_a_special_token_in_a_text_is_refused(tokenizer, token, role):
    with pytest.raises(SampleError, match="in the text") as caught:
        encode(tokenizer, [{"role": role, "content": f"click {token} now"}])
    assert caught.value.reason == "special_token" and token in str(caught.value)


def test_an_answer_that_joins_the_line_before_it_is_refused(tokenizer):
    for answer in ("\n[0.1, 0.2]", "\n\n"):
        with pytest.raises(SampleError) as caught:
            encode(tokenizer, [{"role": "assistant", "content": answer}])
        assert caught.value.reason == "answer_border"


def test_a_part_of_an_unknown_type_is_refused():
    with pytest.raises(DataError, match="audio"):
        render([{"role": "user", "content": [{"type": "audio"}]}])


def test_the_tokenizer_is_reproducible_and_has_every_special_token(tokenizer):
    again = train_tokenizer([TWO_TURNS] * 4, 340)
    assert again.to_str() == tokenizer.to_str()
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(14))
    assert tokenizer.get_vocab_size() <= 340
    text = "ASCII, Ünïcödé, 設定, 🙂\t\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
