"""Screenshots with their HTML, as pairs of files and as parquet rows."""

from __future__ import annotations

import codecs
from pathlib import PurePosixPath

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquet_data import embedded, image_bytes, write_parquet
from raw_datasets import (
    check_sums,
    convert,
    lock_and_convert,
    picture,
    rejects_of,
    samples_of,
    save,
)
from shardline.charsets import declared_encoding, decode_html
from shardline.errors import ConfigError, DataError, GateError
from shardline.files import sha256_file
from shardline.formats import dom_html
from shardline.pairs import find_pairs

PAGE = "<html><body>{}</body></html>"


def pages(folder, **files):
    """Write files named like ``html__7_html``: pages with a text, pictures with a seed."""
    for name, content in files.items():
        *parts, ending = name.split("_")
        path = folder / f"{'_'.join(parts).replace('__', '/')}.{ending}"
        if isinstance(content, int):
            save(picture(content), path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def convert_all(results, folder, **options):
    manifest = lock_and_convert(results, "d", folder, "dom_html", None, format_options=options)
    rejects = rejects_of(results, "d")
    check_sums(manifest, rejects)
    return samples_of(results, "d"), {reject["row"]: reject["reason"] for reject in rejects}


def html_of(sample):
    user, assistant = sample["messages"]
    assert user["role"] == "user" and assistant["role"] == "assistant"
    assert [part["type"] for part in user["content"]] == ["text", "image"]
    return assistant["content"][0]["text"]


@pytest.mark.parametrize(
    ("name", "count", "encoding"),
    [
        ("websrc_html", 11, "utf-8"),
        ("pix2code_bootstrap", 4, "utf-8"),
        ("html_template_pairs", 3, "cp1252"),
    ],
)
def test_all_real_pairs_byte_for_byte(shared_data, results, name, count, encoding):
    folder = shared_data / name
    samples, rejects = convert_all(results, folder)
    assert len(samples) == count and not rejects
    for sample in samples:
        page = sample["id"].removeprefix("d:").removesuffix("#0")
        assert html_of(sample).encode(encoding) == (folder / page).read_bytes()
        assert sample["meta"] == {"encoding": encoding}
        (image,) = sample["media"]
        assert PurePosixPath(image["path"]).stem == PurePosixPath(page).stem
        assert image["sha256"] == sha256_file(folder / image["path"])
        question = {"type": "text", "text": "convert this image to html"}
        assert sample["messages"][0]["content"][0] == question
    assert len(list((results / "converted/d").glob("samples-*"))) == 1


def test_real_pairs_whose_other_half_is_gone(shared_data, results, tmp_path):
    source = shared_data / "websrc_html"
    folder = tmp_path / "raw"
    for path in sorted(source.rglob("processed_data/*")):
        if path.name not in ("0300542.png", "0100002.html"):
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    samples, rejects = convert_all(results, folder)
    assert len(samples) == 9
    assert rejects == {
        "auto/03/processed_data/0300542.html#0": "missing_image",
        "camera/01/processed_data/0100002.png#0": "missing_html",
    }


def test_every_way_a_pair_can_be_wrong(results, tmp_path):
    folder = tmp_path / "raw"
    pages(
        folder,
        good_html="<p>a\r\nb\t</p> ",
        good_PNG=1,
        other_htm="START <p>",
        other_jpeg=2,
        two__pages_html="<p>",
        two__pages_xhtml="<p>",
        two__pages_png=3,
        two__images_html="<p>",
        two__images_png=4,
        two__images_jpg=4,
        alone_html="<p>",
        alone2_png=5,
        blank_html="\ufeff \r\n",
        blank_png=6,
        none_html=b"",
        none_png=6,
        latin_html=b"<p>caf\xe9</p>",
        latin_png=7,
        cut_html="<p>",
        cut_png=image_bytes(8)[:200],
        notes_txt="no page",
    )
    samples, rejects = convert_all(results, folder)
    assert [html_of(sample) for sample in samples] == ["<p>a\r\nb\t</p> ", "START <p>"]
    assert [sample["media"][0]["path"] for sample in samples] == ["good.PNG", "other.jpeg"]
    assert rejects == {
        "two/pages.html#0": "several_pages",
        "two/pages.xhtml#0": "several_pages",
        "two/images.html#0": "several_images",
        "alone.html#0": "missing_image",
        "alone2.png#0": "missing_html",
        "blank.html#0": "empty_html",
        "none.html#0": "empty_html",
        "latin.html#0": "bad_encoding",
        "cut.html#0": "corrupt_image",
    }
    details = {reject["row"]: reject["detail"] for reject in rejects_of(results, "d")}
    assert "two/images.jpg, two/images.png" in details["two/images.html#0"]
    assert "byte 6 is not utf-8" in details["latin.html#0"]


def test_a_changed_page_stops_the_conversion(results, tmp_path):
    folder = tmp_path / "raw"
    pages(folder, a_html="<p>", a_png=1, b_html="<p>", b_png=2)
    convert_all(results, folder)
    (folder / "b.html").write_text("<b>")
    with pytest.raises(DataError, match=r"b\.html is not what was locked"):
        convert(results, "d", "dom_html", None)


@pytest.mark.parametrize(
    ("files", "pairs"),
    [
        ("html/1.html images/1.png", "html/1.html=images/1.png"),
        ("html/a/1.html images/a/1.png html/b/1.html", "html/a/1.html=images/a/1.png"),
        ("1.html shots/1.png", "1.html=shots/1.png"),
        ("train/html/1.html train/1.png test/1.png", "train/html/1.html=train/1.png"),
        ("a/html/1.html a/png/1.png b/html/1.html b/png/1.png",
         "a/html/1.html=a/png/1.png b/html/1.html=b/png/1.png"),
        # A folder of pairs lends its pictures to no other folder.
        ("a/1.html a/2.html a/2.png b/1.png b/3.png b/3.html", "a/2.html=a/2.png b/3.html=b/3.png"),
        ("html/1.html small/1.png large/1.png", ""),
        ("html/1.html clean/1.html images/1.png", ""),
        ("a/html/1.html b/images/1.png", ""),
        ("a.b.html a.b.png a.html", "a.b.html=a.b.png"),
        ("A.html a.png", ""),
    ],
)  # fmt: skip
def test_which_files_are_a_pair(files, pairs):
    found = find_pairs(files.split(), (".html",), (".png",))
    good = [f"{pair.file}={pair.image}" for pair in found if not pair.rejection]
    assert " ".join(good) == pairs


def test_folders_of_pages_and_pictures_can_be_named():
    files = ["web/a/1.html", "web/a/1.png", "shots/x/a/1.png", "shots/x/2.png"]
    found = list(find_pairs(files, (".html",), (".png",), "web", "shots/x"))
    assert [pair[:2] for pair in found] == [
        ("web/a/1.html", "shots/x/a/1.png"),
        ("shots/x/2.png", "shots/x/2.png"),
    ]


names = st.lists(st.sampled_from(["a", "b", "html", "img"]), min_size=1, max_size=3)


endings = st.sampled_from([".html", ".htm", ".png", ".jpg", ".txt"])


@given(st.lists(st.tuples(names, endings), max_size=20))
def test_every_file_is_a_pairs_or_in_a_rejection(entries):
    files = sorted({"/".join(parts) + ending for parts, ending in entries})
    found = list(find_pairs(files, (".html", ".htm"), (".png", ".jpg")))
    good = [pair for pair in found if not pair.rejection]
    used = [file for pair in good for file in (pair.file, pair.image)]
    assert len(used) == len(set(used))
    assert all(PurePosixPath(a).stem == PurePosixPath(b).stem for a, b, _ in good)
    told = " ".join(f"{pair.file} {pair.rejection}" for pair in found if pair.rejection)
    for file in files:
        assert file.endswith(".txt") or file in used or file in told
    rows = [pair.file for pair in found]
    assert len(set(rows)) == len(rows)
    assert set(rows) >= {file for file in files if file.endswith((".html", ".htm"))}


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("<meta charset='iso-8859-1'><p>café “x”".encode("cp1252"), "cp1252"),
        ('<META http-equiv=a content="b/c; charset=Shift_JIS">表'.encode("cp932"), "cp932"),
        ('<?xml version="1.0" encoding="euc-jp"?><p>表示'.encode("euc_jp"), "euc_jp"),
        ("<meta charset=gb2312><p>镕".encode("gbk"), "gb18030"),
        ("<meta charset=windows-1251><p>Привет".encode("cp1251"), "cp1251"),
        ("<p>Привет".encode(), "utf-8"),
        (codecs.BOM_UTF8 + "<meta charset=latin1><p>é".encode(), "utf-8"),
        (codecs.BOM_UTF16_LE + "<p>é".encode("utf-16-le"), "utf-16-le"),
        ("<meta charset=utf-16><p>é".encode(), "utf-8"),
        ("<!-- <meta charset=latin1> --><meta charset=utf-8><p>é".encode(), "utf-8"),
        ("<meta name=x content='charset=none'><meta charset=koi8-r>Я".encode("koi8-r"), "koi8-r"),
        ("<body><p>write &lt;meta charset=latin1> é <meta charset=latin1>".encode(), "utf-8"),
        ("<meta charset=hex><p>é".encode(), "utf-8"),
        (b"<meta charset=utf-7><p>+AGE-", "utf-8"),
    ],
)  # fmt: skip
def test_declared_encodings_round_trip(data, encoding):
    text, found = decode_html(data)
    assert found == encoding and text.encode(encoding) == data


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"<meta charset=utf-8>\xe9", b"<meta charset=shift_jis>\x81", b"\xff\xfe\0"],
)
def test_bytes_that_are_not_what_is_declared(data):
    with pytest.raises(UnicodeDecodeError):
        decode_html(data)


@given(st.binary(max_size=200))
def test_any_bytes_have_an_answer(data):
    for content in (data, b"<meta charset=" + data, b"<?xml encoding='" + data):
        declared_encoding(content)
        try:
            text, encoding = decode_html(content)
        except UnicodeDecodeError:
            continue
        assert isinstance(codecs.lookup(encoding).name, str) and isinstance(text, str)


@given(st.text())
def test_utf8_text_is_kept_to_the_character(text):
    assert decode_html(("<p>" + text).encode()) == ("<p>" + text, "utf-8")


def test_parquet_rows_like_webcode2m(results, tmp_path):
    folder = tmp_path / "raw"
    save(picture(50), folder / "images/named.png")
    columns = {
        "image": [
            embedded(image_bytes(1), "1.png"),
            embedded(image_bytes(2, "JPEG")),
            embedded(None, "named.png"),
            embedded(None, "gone.png"),
            embedded(None),
            None,
            embedded(b""),
            embedded(image_bytes(3)[:300]),
            embedded(image_bytes(3, "JPEG")[:300]),
            embedded(None, "../named.png"),
            embedded(None, "x" * 5000),
            embedded(image_bytes(4)),
            embedded(image_bytes(5)),
            embedded(image_bytes(6)),
        ],
        "text": pa.array(
            [PAGE.format(row).encode() for row in range(11)] + [None, b" \n", b"<p>\xff"]
        ).view(pa.string()),
        "lang": ["en"] * 13 + [None],
        "score": [0.5, float("nan")] * 7,
        "scale": [[1280, 800]] * 14,
        "bbox": ["a layout that nobody reads"] * 14,
    }
    write_parquet(folder / "data/train-0.parquet", columns, rows=4)
    samples, rejects = convert_all(results, folder)
    assert [sample["id"].partition("#")[2] for sample in samples] == ["0", "1", "2"]
    assert [html_of(sample) for sample in samples] == [PAGE.format(row) for row in range(3)]
    assert [sample["media"][0]["path"] for sample in samples] == [
        "data/train-0.parquet#0/image.png",
        "data/train-0.parquet#1/image.jpg",
        "images/named.png",
    ]
    assert samples[0]["media"][0]["width"] == 120
    assert samples[0]["meta"] == {"lang": "en", "scale": [1280, 800], "score": 0.5}
    assert samples[1]["meta"] == {"lang": "en", "scale": [1280, 800]}
    assert {int(row.partition("#")[2]): reason for row, reason in rejects.items()} == {
        3: "missing_image",
        4: "missing_image",
        5: "missing_image",
        6: "empty_file",
        7: "corrupt_image",
        8: "corrupt_image",
        9: "unsafe_path",
        10: "bad_row",
        11: "missing_html",
        12: "empty_html",
        13: "bad_encoding",
    }


def test_each_parquet_file_has_its_own_schema(results, tmp_path):
    folder = tmp_path / "raw"
    write_parquet(folder / "0.parquet", {"image": [embedded(image_bytes(1))], "text": ["<p>0"]})
    plain = {"image": pa.array([image_bytes(2)]), "text": pa.array(["<p>é".encode()])}
    write_parquet(folder / "1.parquet", plain)
    wrong = {"image": pa.array([7]), "text": pa.array([[1]]), "tokens": pa.array([[1, 2]])}
    write_parquet(folder / "2.parquet", wrong)
    samples, rejects = convert_all(results, folder)
    assert [html_of(sample) for sample in samples] == ["<p>0", "<p>é"]
    assert rejects == {"2.parquet#0": "bad_row"}


def test_columns_and_question_can_be_named(results, tmp_path):
    folder = tmp_path / "raw"
    columns = {"screenshot": pa.array([image_bytes(1)]), "html": pa.array(["<p>"])}
    write_parquet(folder / "a.parquet", columns)
    options = {"image": "screenshot", "text": "html", "question": ""}
    (sample,), _ = convert_all(results, folder, **options)
    assert sample["messages"][0]["content"] == [{"type": "image"}]
    assert sample["media"][0]["path"] == "a.parquet#0/screenshot.png"


def test_what_is_no_dataset_of_pages(tmp_path):
    save(picture(1), tmp_path / "a.png")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.parquet").write_bytes(b"no parquet")
    write_parquet(tmp_path / "lacks/a.parquet", {"image": ["x"], "html": ["<p>"]})
    for options, error in (
        ({"annotations": "bad/*"}, "not a parquet file"),
        ({"annotations": "lacks/*"}, "column text; it has: image, html"),
        ({"annotations": "none/*"}, "no annotation file"),
        ({"annotations": "*.png"}, r"has to be called \*\.parquet"),
    ):
        with pytest.raises(DataError, match=error):
            list(dom_html.read(tmp_path, options))
    with pytest.raises(ConfigError, match="no option txt"):
        list(dom_html.read(tmp_path, {"txt": "html"}))
    with pytest.raises(ConfigError, match="question: 3 is no text"):
        list(dom_html.read(tmp_path, {"question": 3}))
    for folder in ("bad", "lacks"):
        (tmp_path / folder / "a.parquet").unlink()
    with pytest.raises(DataError, match="neither parquet files nor pages"):
        list(dom_html.read(tmp_path, {}))


def test_rows_of_small_files_share_shards(results, tmp_path):
    folder = tmp_path / "raw"
    for number in range(25):
        pages(folder, **{f"{number:02d}_html": f"<p>{number}", f"{number:02d}_png": number})
    manifest = lock_and_convert(results, "d", folder, "dom_html", None, shard_rows=10)
    assert [shard["rows"] for shard in manifest["shards"]] == [10, 10, 5]
    first = sha256_file(results / "converted/d/samples-00000.jsonl.zst")
    pages(folder, **{"24_html": "<b>changed"})
    other = tmp_path / "other"
    changed = lock_and_convert(other, "d", folder, "dom_html", None, shard_rows=10)
    assert changed["shards"][:2] == manifest["shards"][:2]
    assert changed["shards"][2] != manifest["shards"][2]
    assert sha256_file(other / "converted/d/samples-00000.jsonl.zst") == first


def test_too_many_halves_stop_at_the_gate(results, tmp_path):
    folder = tmp_path / "raw"
    pages(folder, a_html="<p>", a_png=1, b_png=2)
    with pytest.raises(GateError, match="missing_html 1"):
        lock_and_convert(results, "d", folder, "dom_html", None, max_reject_share=0.4)
