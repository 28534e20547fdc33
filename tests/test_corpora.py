"""Folders of data that one brings: what is read, how it is split, and what is said of what is wrong."""

import hashlib
import shutil
import sys

import numpy as np
import PIL.Image
import pytest

from experiments.bench import parsing
from experiments.bench.settings import parsed
from experiments.tasks import corpus as corpora
from experiments.tasks import image, imdb, pathfinder, retrieval, task
from experiments.tasks.corpus import PlainText
from experiments.tasks.image import Image
from experiments.tasks.imdb import IMDb
from experiments.tasks.pathfinder import Pathfinder
from experiments.tasks.retrieval import Retrieval
from experiments.train.sweep import models as trained_models
from experiments.train.sweep.cells import cells as accuracy_cells
from experiments.train.sweep.settings import Settings


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
        order = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        own = {"test": order[:4], "validation": order[4:8], "train": order[8:]}[split]
        letters = {(corpus / name).read_bytes()[0] for name in own}
        inputs, targets, weights, lengths, _ = chosen.batch(split, 0, 0, 60, 30)
        assert letters and set(np.unique(inputs)) == letters | {ord("\n")}
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
        assert weights.all() and lengths is None


def test_no_split_of_three_files_or_more_is_empty():
    for count in (3, 4, 12, 20, 25):
        found = corpora.split({f"{number}.txt": bytes([number]) for number in range(count)})
        sizes = {name: len(texts) for name, texts in found.items()}
        few = max(1, round(count / 10))
        assert sizes == {"train": count - 2 * few, "validation": few, "test": few}
        assert len({text for texts in found.values() for text in texts}) == count


@pytest.mark.parametrize("count", [1, 2])
def test_few_files_are_split_by_place(tmp_path, count):
    for number in range(count):
        (tmp_path / f"{number}.txt").write_bytes(bytes(range(32 + 100 * number, 132 + 100 * number - 28 * number)))
    splits = corpora.split({path.name: path.read_bytes() for path in sorted(tmp_path.iterdir())})
    for number in range(count):
        parts = [splits[name][number] for name in task.SPLITS]
        assert b"".join(parts) == (tmp_path / f"{number}.txt").read_bytes() and len(parts[1]) == len(parts[2])
        assert 0.75 < len(parts[0]) / len(b"".join(parts)) < 0.85


def test_a_split_that_is_too_short_is_found_before_training(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "only.txt").write_text("x" * 200)
    given = {"task": f"corpus(folder='{tmp_path / 'texts'}')", "kernels": "softmax", "tokens": 64, "out": tmp_path}
    given |= {"learning_rates": "1e-2"}
    chosen = parsed(Settings, **given | {"lengths": "16,24", "isolate": False, "steps": 2, "widths": 8, "layers": 1})
    fits, long = accuracy_cells(chosen)
    assert trained_models.refusal(chosen, fits) is None
    assert "the files of the validation split have 20" in trained_models.refusal(chosen, long)["reason"]


def test_a_path_without_quotes_is_told_how_to_write_it():
    for text_of in ("corpus(folder=/data/texts)", "imdb(folder=~/aclImdb)", "text, corpus(folder=data/texts)"):
        path = text_of.partition("=")[2].rstrip(")")
        with pytest.raises(ValueError, match=f"a path stands in quotes: folder='{path}'"):
            parsing.tasks(text_of)


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


# Pictures and pairs of the Long Range Arena.


def colours(count, first=0):
    """Records of CIFAR-10: classes in turn, and colours that no other record has."""
    rng = np.random.default_rng([count, first])
    pixels = rng.integers(256, size=(count, 3 * 1024)).astype(np.uint8)
    answers = np.arange(first, first + count, dtype=np.uint8)[:, None] % 10
    return np.concatenate([answers, pixels], axis=1)


@pytest.fixture
def photographs(tmp_path):
    """Four records in each file of training pictures, and six tests."""
    for number, name in enumerate((*image.TRAINING, image.TEST)):
        (tmp_path / name).write_bytes(colours(6 if name == image.TEST else 4, number).tobytes())
    return tmp_path


def in_grey(record):
    """The pixels of a record, as TensorFlow mixes them, in double precision."""
    red, green, blue = record[1:].reshape(3, 1024) / 255
    return np.floor((0.2989 * red + 0.587 * green + 0.114 * blue) * 255.5)


def test_photographs_are_grey_rows_of_pixels(photographs):
    chosen = Image(str(photographs))
    records = np.concatenate([np.frombuffer((photographs / name).read_bytes(), np.uint8) for name in image.TRAINING])
    records = records.reshape(-1, 3073)
    wanted = {"train": records[:18], "validation": records[18:]}
    wanted["test"] = np.frombuffer((photographs / image.TEST).read_bytes(), np.uint8).reshape(-1, 3073)
    for split, own in wanted.items():
        inputs, targets, weights, lengths, _ = chosen.batch(split, 0, 0, len(own), 1024)
        assert inputs.dtype == np.int32 and inputs.shape == (len(own), 1024) and weights.all() and lengths is None
        order = [np.abs(inputs - in_grey(record)).max(axis=1).argmin() for record in own]
        assert sorted(order) == list(range(len(own)))
        for place, record in zip(order, own, strict=True):
            assert targets[place] == record[0]
            assert (inputs[place] != in_grey(record)).mean() < 0.01  # where single precision rounds otherwise
            assert np.abs(inputs[place] - in_grey(record)).max() <= 1
    other = np.concatenate([chosen.batch("test", 0, start, 3, 1024).inputs for start in (3, 0)])
    np.testing.assert_array_equal(np.concatenate([other[3:], other[:3]]), chosen.batch("test", 0, 0, 6, 1024).inputs)
    assert len(chosen.digest) == 64 and Image(str(photographs)) == chosen


def test_black_and_white_and_the_three_colours():
    found = image.grey(np.array([[[0, 255, 255, 0, 0], [0, 255, 0, 255, 0], [0, 255, 0, 0, 255]]], np.uint8))
    assert found.tolist() == [[0, 255, 76, 149, 29]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "data_batch_3.bin",
            None,
            r"data_batch_3\.bin cannot be read: No such .*; expected .* as cifar-10-binary\.tar\.gz",
        ),
        ("test_batch.bin", b"", r"test_batch\.bin has 0 bytes: expected records of 3,073 each"),
        ("test_batch.bin", bytes(3072), r"has 3,072 bytes: expected records of 3,073 each"),
        ("data_batch_1.bin", b"\x0b" + bytes(3072), r"data_batch_1\.bin has a picture of class 11: expected 0 to 9"),
    ],
)
def test_photographs_that_are_missing_or_broken_are_named(photographs, name, content, message):
    (photographs / name).unlink()
    if content is not None:
        (photographs / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Image(str(photographs)).batch("train", 0, 0, 1, 1024)


@pytest.mark.parametrize("chosen", [Image, Pathfinder], ids=lambda cls: cls.__name__)
def test_pictures_have_one_length(chosen):
    with pytest.raises(ValueError, match=r"length=512: .* expects 1024, the pixels of a picture"):
        chosen().batch("train", 0, 0, 1, 512)


@pytest.fixture
def paths(tmp_path):
    """Twenty pictures in two folders, told by two files; one more has no content."""
    level = tmp_path / "curv_contour_length_14"
    (level / "metadata").mkdir(parents=True)
    for folder in (0, 1):
        (level / "imgs" / str(folder)).mkdir(parents=True)
        lines = []
        for number in range(10):
            draw(level / "imgs" / str(folder) / f"sample_{number}.png", np.full((32, 32), 10 * folder + number))
            lines.append(f"imgs/{folder} sample_{number}.png {number} {number % 2} 1.0 14 0.5\n")
        (level / "metadata" / f"{folder}.npy").write_text("".join(lines))
    (level / "imgs" / "0" / "sample_99.png").touch()
    with (level / "metadata" / "0.npy").open("a") as file:
        file.write("imgs/0 sample_99.png 99 1 1.0 14 0.5\n")
    return tmp_path


def draw(path, pixels, mode="L"):
    PIL.Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path)


def test_every_path_is_in_one_split_and_has_its_label(paths):
    chosen, found = Pathfinder(str(paths)), {}
    for split, count in (("train", 16), ("validation", 2), ("test", 2)):
        inputs, targets, weights, lengths, _ = chosen.batch(split, 0, 0, count, 1024)
        assert inputs.shape == (count, 1024) and inputs.dtype == np.int32 and weights.all() and lengths is None
        assert (inputs == inputs[:, :1]).all() and (targets == inputs[:, 0] % 10 % 2).all()
        found[split] = set(inputs[:, 0].tolist())
        assert len(found[split]) == count
    assert set.union(*found.values()) == set(range(20))
    draw(paths / "curv_contour_length_14" / "imgs" / "0" / "sample_0.png", np.arange(1024).reshape(32, 32) % 256)
    pixels = pathfinder.load(f"{paths}/").splits
    rows = np.concatenate([part.pixels for part in pixels.values()])
    assert (rows == np.arange(1024) % 256).all(axis=1).sum() == 1  # row after row
    assert chosen.digest != Pathfinder(f"{paths}/").digest


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("imgs", None, r"14/imgs is no folder: expected .*imgs/\*/\*\.png and metadata/\*\.npy, as lra_release\.gz"),
        ("metadata/*", None, r"metadata lists no pictures: expected files \*\.npy"),
        ("metadata/1.npy", b"imgs/1 a.png 0\n", r"1\.npy, line 1 is 'imgs/1 a\.png 0': expected a folder, a file"),
        ("metadata/1.npy", b"imgs/1 sample_0.png 0 2 x\n", "line 1 is .*: expected .* a label, 0 or 1, such as"),
        ("metadata/1.npy", b"\x93NUMPY", r"1\.npy is no UTF-8 text"),
        ("metadata/1.npy", b"imgs/1 a.png 0 1\n", r"imgs/1/a\.png cannot be read: No such file .* as the metadata say"),
        ("imgs/1/sample_4.png", b"GIF89a", r"sample_4\.png is no PNG picture"),
        ("imgs/1/sample_4.png", "cut", r"sample_4\.png is no PNG picture"),
        ("imgs/1/sample_4.png", b"\x89PNG\r\n\x1a\n\0\0\0\0IHDR\0\0\0\0", r"sample_4\.png is no PNG picture"),
        ("imgs/1/sample_4.png", "RGB", r"sample_4\.png has 32 x 32 pixels of mode RGB: expected 32 x 32 of mode L"),
        ("imgs/1/sample_4.png", "wide", r"sample_4\.png has 40 x 32 pixels of mode L: expected 32 x 32"),
    ],
)
def test_paths_that_are_missing_or_broken_are_named(paths, name, change, message):
    for path in list((paths / "curv_contour_length_14").glob(name)):
        if change is None:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif change == "cut":
            path.write_bytes(path.read_bytes()[:60])
        elif isinstance(change, str):
            draw(path, np.zeros((32, 40 if change == "wide" else 32)), "L" if change == "wide" else change)
        else:
            path.write_bytes(change)
    with pytest.raises(ValueError, match=message):
        Pathfinder(str(paths)).batch("train", 0, 0, 1, 1024)


def test_a_split_without_pictures_is_refused(paths):
    for path in (paths / "curv_contour_length_14" / "metadata").iterdir():
        path.write_text("imgs/1 sample_0.png 0 0\n")
    assert len(Pathfinder(str(paths)).batch("test", 0, 0, 1, 1024).inputs) == 1
    with pytest.raises(ValueError, match="leaves no picture for the train split: expected more than a few"):
        Pathfinder(str(paths)).batch("train", 0, 0, 1, 1024)


def test_without_pillow_the_extra_is_named(paths, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"reads PNG with Pillow, .*pip install 'attnzoo\[experiments\]'"):
        Pathfinder(str(paths)).batch("train", 0, 0, 1, 1024)


@pytest.fixture
def papers(tmp_path):
    """Twelve pairs in each file, whose documents say where they stand, one of them short."""
    for name in ("train", "eval", "test"):
        lines = [f'{number % 2}.0\tA{number}\tB\t{name} {number} {"x" * 90}\t"{number}" é' for number in range(12)]
        (tmp_path / f"new_aan_pairs.{name}.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_pair_that_goes_to_another_split_makes_other_data(papers):
    train, held_out = (papers / f"new_aan_pairs.{name}.tsv" for name in ("train", "eval"))
    before, lines = Retrieval(str(papers)).digest, train.read_bytes().splitlines(keepends=True)
    train.write_bytes(b"".join(lines[:-1]))
    held_out.write_bytes(lines[-1] + held_out.read_bytes())
    assert Retrieval(f"{papers}/").digest != before


def test_a_pass_meets_every_pair_once(papers):
    chosen = Retrieval(str(papers))
    for split, name in retrieval.FILES.items():
        inputs, targets, weights, lengths, _ = chosen.batch(split, 0, 0, 12, 30)
        assert inputs.shape == (12, 2, 30) and lengths.shape == (12, 2) and inputs.dtype == lengths.dtype == np.int32
        assert targets.shape == weights.shape == (12,)
        numbers = []
        for pair, answer, sizes in zip(inputs, targets, lengths, strict=True):
            first, second = (bytes(row[:n].astype(np.uint8)).decode() for row, n in zip(pair, sizes, strict=True))
            numbers.append(int(first.split()[1]))
            assert first == f"{name} {numbers[-1]} {'x' * 90}"[:30] and second == f'"{numbers[-1]}" é'
            assert answer == numbers[-1] % 2 and (pair[1, sizes[1] :] == retrieval.PAD).all()
        assert sorted(numbers) == list(range(12))
    np.testing.assert_array_equal(
        chosen.batch("test", 0, 0, 12, 9).inputs, chosen.batch("test", 0, 0, 12, 30).inputs[..., :9]
    )
    np.testing.assert_array_equal(
        chosen.batch("test", 0, 7, 1, 9).inputs, chosen.batch("test", 0, 0, 12, 9).inputs[7:8]
    )
    assert len(chosen.digest) == 64 and 0.3 < chosen.majority(9, count=12) < 0.7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"eval\.tsv is no file: expected .* with new_aan_pairs\.\{train,eval,test\}\.tsv, as lra_release\.gz"),
        (b"", r"eval\.tsv is empty: expected a pair in each line"),
        (
            b"1.0\tA\tB\tone\ttwo\n1\tA\tB\tone\n",
            r"eval\.tsv, line 2 has 4 columns, the first '1': expected a label, a n",
        ),
        (b"2\tA\tB\tone\ttwo\n", "line 1 has 5 columns, the first '2': expected .* and the label 0 or 1"),
        (b"1\tA\tB\tone\t\n", "line 1 has 5 columns, .* none of them empty"),
        (b"\n", "line 1 has 1 columns, the first ''"),
    ],
)
def test_pairs_that_are_missing_or_broken_are_named(papers, content, message):
    path = papers / "new_aan_pairs.eval.tsv"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Retrieval(str(papers)).batch("train", 0, 0, 1, 8)
