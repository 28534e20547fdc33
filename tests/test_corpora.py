"""Folders of one's own text and of film reviews: what is read, how it is split, and what is said of what is wrong."""

import numpy as np
import pytest

from experiments.tasks import imdb, task, text
from experiments.tasks.corpus import PlainText
from experiments.tasks.imdb import IMDb


@pytest.fixture
def corpus(tmp_path):
    """Forty files of a letter each, in two folders, and one that is no text file."""
    for number in range(40):
        path = tmp_path / ("a", "b/c")[number % 2] / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(chr(ord("A") + number) * 50)
    (tmp_path / "a" / "picture.png").write_bytes(b"\x89PNG")
    return tmp_path


def test_windows_come_from_files_of_their_split(corpus):
    chosen = PlainText(str(corpus))
    for split in task.SPLITS:
        names = [path.relative_to(corpus).as_posix() for path in corpus.rglob("*.txt")]
        letters = {(corpus / name).read_bytes()[0] for name in names if text.split_of(name) == split}
        inputs, targets, weights, lengths, _ = chosen.batch(split, 0, 0, 60, 30)
        assert letters and set(np.unique(inputs)) == letters | {ord("\n")}
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
        assert weights.all() and lengths is None


def test_a_corpus_is_told_by_its_contents(corpus):
    before = PlainText(str(corpus)).digest
    (corpus / "a" / "0.txt").write_text("changed")
    assert PlainText(str(corpus)).digest == before  # a process reads once
    assert len(before) == 64 and PlainText(f"{corpus}/").digest != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"0\.txt is empty: expected text in it"),
        (b" \n", "is empty"),
        ("caf\xe9".encode("latin-1"), "is no UTF-8 text: byte 0xe9 at 3; expected UTF-8, .*iconv"),
        (b"ab\0c", "is no text: it has a zero byte at 2"),
    ],
)
def test_files_that_are_no_text_are_named(corpus, content, message):
    (corpus / "a" / "0.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        PlainText(str(corpus)).batch("train", 0, 0, 1, 8)


def test_a_link_to_nothing_is_named(corpus):
    (corpus / "gone.txt").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"gone.txt cannot be read: No such file or directory"):
        PlainText(folder=str(corpus)).batch("train", 0, 0, 1, 8)


def test_folders_without_text_are_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no folder: expected one with text files, \*\.txt"):
        PlainText(str(tmp_path / "nowhere")).corpus()
    with pytest.raises(ValueError, match=r"has no files \*\.md, also none below: expected text files"):
        PlainText(str(corpus), suffix=".md").corpus()
    with pytest.raises(ValueError, match=r"a window of 5,001 bytes: the files of the test split have .*split -C"):
        PlainText(str(corpus)).batch("test", 0, 0, 1, 5000)


@pytest.fixture
def reviews(tmp_path):
    """Thirty reviews in each folder; one training review is also a test."""
    for part in ("train", "test"):
        for name in ("pos", "neg"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(30):
                (folder / f"{number}_5.txt").write_text(f"{part} {name} {number} " + "x" * number)
    (tmp_path / "train" / "pos" / "0_5.txt").write_text("test neg 7 " + "x" * 7)
    (tmp_path / "train" / "unsup").mkdir()
    return tmp_path


def test_a_pass_meets_every_review_once(reviews):
    chosen = IMDb(str(reviews))
    found = {}
    for split, content in imdb.load(str(reviews)).splits.items():
        inputs, targets, weights, lengths, _ = chosen.batch(split, 0, 0, len(content), 64)
        found[split] = [bytes(row[:n].astype(np.uint8)) for row, n in zip(inputs, lengths, strict=True)]
        assert weights.shape == targets.shape and set(targets) == {0, 1}
        for row, written, answer in zip(inputs, found[split], targets, strict=True):
            assert written.split()[1] == (b"neg", b"pos")[answer] and (row[len(written) :] == imdb.PAD).all()
        assert len(set(found[split])) == len(content)
    assert len(found["test"]) == 60 and len(found["train"]) + len(found["validation"]) == 59
    assert len(found["train"]) > 40 and b"test neg 7 xxxxxxx" in found["test"]
    assert all(written.startswith(b"train") for written in found["train"] + found["validation"])


def test_long_reviews_are_cut(reviews):
    inputs, _, _, lengths, _ = IMDb(str(reviews)).batch("test", 0, 0, 60, 20)
    np.testing.assert_array_equal(inputs, IMDb(str(reviews)).batch("test", 0, 0, 60, 50).inputs[:, :20])
    assert lengths.max() == 20 and inputs.shape == (60, 20) and lengths.min() < 20
    parts = [IMDb(str(reviews)).batch("test", 0, start, 30, 20).inputs for start in (30, 0)]
    np.testing.assert_array_equal(np.concatenate(parts[::-1]), inputs)


def test_reviews_that_are_missing_or_broken_are_named(reviews):
    broken = reviews / "test" / "neg" / "3_5.txt"
    kept = broken.read_bytes()
    broken.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"neg/3_5\.txt is no UTF-8 text: byte 0xff at 0"):
        imdb.load(str(reviews))
    broken.write_bytes(kept)
    assert len(IMDb(str(reviews)).digest) == 64
    for path in (reviews / "train" / "neg").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"train/neg has no reviews: expected files \*\.txt"):
        imdb.load(f"{reviews}/")
    (reviews / "train" / "neg").rmdir()
    with pytest.raises(
        ValueError, match=r"train/neg is no folder: expected .* with \{train,test\}/\{pos,neg\}/\*\.txt"
    ):
        imdb.load(f"{reviews}/")
    with pytest.raises(ValueError, match="aclImdb_v1"):
        IMDb(str(reviews / "elsewhere")).batch("train", 0, 0, 1, 8)


def test_a_split_without_reviews_is_refused(reviews):
    for part in ("train", "test"):
        for path in (reviews / part).rglob("*.txt"):
            if path.name != "9_5.txt":
                path.unlink()
    kept = {split: len(found) for split, found in imdb.load(str(reviews)).splits.items()}
    absent = min(kept, key=kept.get)
    assert kept[absent] == 0 and kept["test"] == 2
    with pytest.raises(ValueError, match=f"leaves no review for the {absent} split: expected more than a few"):
        IMDb(str(reviews)).batch(absent, 0, 0, 1, 8)
