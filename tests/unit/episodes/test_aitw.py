"""Android in the Wild as SeeClick repacks it."""

from __future__ import annotations

from episode_data import (
    action,
    aitw_step,
    convert,
    screens,
    write,
)


def test_android_in_the_wild(folder, results):
    screens(folder, *(f"aitw_images/general/1_{number}.png" for number in range(5)))
    image = [f"general/1_{number}" for number in range(6)]
    general = [
        aitw_step(image=image[0]),
        aitw_step("type", 3, image[1], type_text="maps", touch=[-1.0, -1.0]),
        aitw_step("scroll down", 4, image[5]),
        aitw_step("scroll up", 4, image[2]),
        aitw_step("status task complete", 10, image[3]),
    ]
    single = [aitw_step(image=image[4], ep_id=2, lift=[-1.0, -1.0]),
              aitw_step("fly", image=image[4]), aitw_step(kind=5, image=image[4]), 3]  # fmt: skip
    content = {"general": [general], "single": [single, [], 5], "install": 7}
    write(folder / "aitw_data_train.json", content)
    samples, rejects = convert(results, folder, "aitw", interleaving="ttvv")
    assert [action(sample) for sample in samples] == [
        {"action": "CLICK", "value": None, "position": [0.3, 0.5]},
        {"action": "TYPE", "value": "maps", "position": None},
        {"action": "SCROLL UP", "value": None, "position": None},
        {"action": "STATUS TASK COMPLETE", "value": None, "position": None},
    ]
    assert [sample["meta"]["step"] for sample in samples] == [0, 1, 3, 4]
    assert [sample["meta"]["history"] for sample in samples] == [[], [0], [0, 1], [0, 1, 3]]
    assert {sample["group"] for sample in samples} == {"1"}
    assert samples[0]["meta"]["subset"] == "general"
    assert rejects == {
        f"aitw_data_train.json#{number}": reason
        for number, reason in (
            ("0.2", "missing_image"), ("1.0", "outside_image"), ("1.1", "bad_action"),
            ("1.2", "bad_action"), ("1.3", "bad_row"), ("2", "bad_row"), ("3", "bad_row"),
            ("4", "bad_row"),
        )
    }  # fmt: skip
