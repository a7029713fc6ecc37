"""Conversations as they are: which ones are taken, and on what the loss is."""

import jinja2
import numpy as np
import pytest

from shardline import qwen_chat, vicuna_chat
from shardline.errors import DataError, SampleError
from shardline.samples import Medium, Sample
from shardline.tasks import chat

TALK = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "image"},
            {"type": "text", "text": "\nWhat, and in "},
            {"type": "video"},
            {"type": "text", "text": "? 設定"},
        ],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "A cat, é."}]},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]
FORMATS = {"qwen": (qwen_chat, 340), "vicuna": (vicuna_chat, 420)}


@pytest.fixture(scope="module", params=sorted(FORMATS))
def spoken(request):
    form, size = FORMATS[request.param]
    return form, form.train_tokenizer([TALK] * 4, size)


def sample(messages, *kinds):
    media = [Medium(kind=kind, path="a", width=9, height=9) for kind in kinds]
    return Sample(id="d:f#0", dataset="d", media=media, messages=messages)


def test_a_conversation_is_taken_as_it_is():
    assert chat.conversation(sample(TALK, "image", "video"), {}) == TALK
    assert chat.question(sample(TALK, "image", "video"), 0, {}) == TALK[:2]
    assert chat.question(sample(TALK, "image", "video"), 1, {}) == TALK[:4]
    assert chat.question(sample(TALK[:2], "image", "video"), 0, {}) == TALK[:2]
    assert chat.parse("[0.5, 0.5]", {}) is None


@pytest.mark.parametrize(
    ("messages", "kinds", "reason"),
    [
        ([], (), "no_messages"),
        (TALK[:2], ("image", "video"), "no_answer"),
        (TALK, ("image",), "placeholders"),
        (TALK, ("video", "image"), "placeholders"),
        (TALK[3:], ("image",), "placeholders"),
    ],
)
def test_a_conversation_that_does_not_fit_its_media_is_refused(messages, kinds, reason):
    with pytest.raises(SampleError) as caught:
        chat.conversation(sample(messages, *kinds), {})
    assert caught.value.reason == reason


@pytest.mark.parametrize("generation_prompt", [False, True])
def test_rendered_text_is_the_templates(spoken, generation_prompt):
    form, _ = spoken
    text = "".join(segment.text for segment in form.render(TALK, generation_prompt))
    for trimmed in (False, True):
        environment = jinja2.Environment(trim_blocks=trimmed, lstrip_blocks=trimmed)
        template = environment.from_string(form.chat_template())
        assert text == template.render(messages=TALK, add_generation_prompt=generation_prompt)


def test_text_by_hand():
    vicuna = "".join(segment.text for segment in vicuna_chat.render(TALK, True))
    assert vicuna == (
        "Be brief.\nUSER: <image>\nWhat, and in <image>? 設定 ASSISTANT: A cat, é.</s>\n"
        "USER: Sure? ASSISTANT: Yes.</s>\nASSISTANT:"
    )
    box = [{"role": "assistant", "content": [{"type": "box", "text": "(1,2),(3,4)"}]}]
    qwen = "".join(segment.text for segment in qwen_chat.render(box))
    assert qwen == "<|im_start|>assistant\n<|box_start|>(1,2),(3,4)<|box_end|><|im_end|>\n"
    template = jinja2.Environment().from_string(qwen_chat.chat_template())
    assert template.render(messages=box) == qwen
    with pytest.raises(DataError, match="not 'box'"):
        vicuna_chat.render(box)
    with pytest.raises(DataError, match="by 'tool'"):
        vicuna_chat.render([{"role": "tool", "content": ""}])


def test_loss_on_answers_or_on_all_but_media(spoken):
    form, tokenizer = spoken
    ids, labels = form.encode(tokenizer, TALK)
    learned = tokenizer.decode(labels[labels != -100].tolist(), skip_special_tokens=False)
    end = "</s>" if form is vicuna_chat else "<|im_end|>"
    assert [part.strip() for part in learned.split(end)] == ["A cat, é.", "Yes.", ""]
    same, everything = form.encode(tokenizer, TALK, loss="all")
    assert (same == ids).all() and (everything[everything != -100] == ids[everything != -100]).all()
    media = np.isin(ids, [tokenizer.token_to_id(token) for token in form.PLACEHOLDERS])
    assert media.sum() == 2 and (everything[media] == -100).all()
    begin = int(form is vicuna_chat)  # <s>, which nothing predicts
    after = np.flatnonzero(ids == tokenizer.token_to_id(end))[-1] + 1
    assert (everything[after:] == -100).all() and after < len(ids)
    assert (everything[begin:after][~media[begin:after]] != -100).all()


def test_a_question_is_a_prefix_of_what_was_trained(spoken):
    form, tokenizer = spoken
    trained, _ = form.encode(tokenizer, TALK)
    for turn in (2, 4):
        asked, _ = form.encode(tokenizer, TALK[:turn], generation_prompt=True)
        assert asked.tolist() == trained[: len(asked)].tolist()


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_special_tokens_in_texts_are_refused(spoken, role):
    form, tokenizer = spoken
    for token in form.SPECIAL_TOKENS:
        for content in (f"a {token} b", [{"type": "text", "text": token}]):
            with pytest.raises(SampleError) as caught:
                form.encode(tokenizer, [{"role": role, "content": content}])
            assert caught.value.reason == "special_token"
    with pytest.raises(SampleError):
        qwen_chat.render([{"role": role, "content": [{"type": "box", "text": "<|im_end|>"}]}])


def test_the_vicuna_tokenizer_is_reproducible_and_spells_anything():
    tokenizer = vicuna_chat.train_tokenizer([TALK] * 4, 420)
    assert tokenizer.to_str() == vicuna_chat.train_tokenizer([TALK] * 4, 420).to_str()
    assert tokenizer.get_vocab_size() <= 420
    ids = [tokenizer.token_to_id(token) for token in vicuna_chat.SPECIAL_TOKENS]
    assert ids == list(range(len(ids)))
    for text in ("ASCII, Ünïcödé, 設定, 🙂\t\n  x", "<0x0A> is no byte"):
        found = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(found) == text and 0 not in found
