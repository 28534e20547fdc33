"""Trained text models on disk: what was saved is built again, speaks, and shows where it looks."""

import json

import numpy as np
import pytest

from attnzoo import LearnedPositions, Linear, Nystrom, Softmax
from attnzoo.models import BlockConfig
from experiments.generate.run import run as generate
from experiments.generate.run import samples, told
from experiments.generate.settings import Settings as Generating
from experiments.inspect import heads, plot
from experiments.inspect.run import run as inspect
from experiments.inspect.settings import Settings as Inspecting
from experiments.train import checkpoints, language
from tests.test_contract import Retention
from tests.test_generation import recomputed

CONFIG = BlockConfig(width=8, num_heads=2)
TEXT = np.frombuffer(b"def f(x): retur", np.uint8).astype(np.int32)


def described(**changes):
    given = {
        "vocabulary": 257,
        "max_length": 16,
        "num_layers": 2,
        "attention": (Softmax(), Linear()),
        "positions": LearnedPositions(),
    }
    return language.Description(CONFIG, **(given | {"is_causal": True, "seed": 3} | changes))


@pytest.fixture
def saved(tmp_path):
    description = described()
    model = description.build()
    language.save(tmp_path / "one", description, model)
    return tmp_path / "one", model


def generating(folder, **changes):
    given = {"prompt": "def ", "tokens": 0, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "samples": 2, "seed": 0}
    return Generating(str(folder), **(given | {"attention": None} | changes))


def test_a_model_comes_back_with_its_kernels_and_positions(saved):
    folder, model = saved
    description, again = language.load(folder)
    assert description == described()
    np.testing.assert_array_equal(again(TEXT[None]), model(TEXT[None]))


def test_kernels_may_be_exchanged(saved):
    folder, model = saved
    description, other = language.load(folder, (Linear(),))
    assert description.attention == (Linear(),)
    assert np.abs(other(TEXT[None]) - model(TEXT[None])).max() > 0


def test_nothing_is_imported_that_a_file_names(tmp_path):
    description = described(attention=(Retention(),))
    language.save(tmp_path, description, description.build())
    with pytest.raises(ValueError, match=r"'tests.test_contract.Retention' is not in the catalogue, and nothing is im"):
        language.load(tmp_path)
    assert language.load(tmp_path, (Retention(),))[0].attention == (Retention(),)


@pytest.mark.parametrize("about", [{}, {"config": {"width": 8, "depth": 2}}, {"attention": 3}], ids=str)
def test_a_description_of_something_else_is_said(about):
    with pytest.raises(ValueError, match="describes no language model"):
        language.read(described().told() | about if about else {})


def test_a_checkpoint_of_other_shapes_is_told(saved):
    folder, _ = saved
    about = json.loads((folder / "about.json").read_text())
    del about["sha256"]
    about["about"]["max_length"] = 20
    about["sha256"] = checkpoints._digest(about)
    (folder / "about.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"embedding.position is float32\[16, 8\] there, and float32\[20, 8\] in the"):
        language.load(folder)


def test_a_model_speaks(saved, capsys):
    folder, model = saved
    assert generate(generating(folder)) == 0
    assert "Softmax(), Linear(" in capsys.readouterr().out
    first, second = samples(generating(folder, tokens=3), model)
    assert first.tolist() == second.tolist() == list(recomputed(model, np.frombuffer(b"def ", np.uint8), 3))
    drawn = samples(generating(folder, temperature=1.0, top_k=9, samples=3), model)
    assert len(set(map(told, drawn))) == 3


def test_bytes_that_are_no_text_show():
    assert told(np.array([100, 256, 255, 195, 164])) == "d��ä"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": ""}, "--prompt is empty: give the model at least one character"),
        ({"prompt": "x" * 16}, "--prompt has 16 bytes: the model has room for 16, prompt and answer together"),
        ({"tokens": 13}, "--tokens=13: after 4 bytes of prompt the model has room for 12"),
        ({"samples": 0}, "--samples=0: expected at least 1"),
        ({"temperature": -1.0}, "--temperature=-1.0: expected at least 0"),
        ({"top_k": 5}, "top_k=5 with temperature=0"),
    ],
    ids=str,
)
def test_what_cannot_be_said(saved, changes, message):
    with pytest.raises(ValueError, match=message):
        generate(generating(saved[0], **changes))


def test_numbers_of_heads_are_those_of_their_maps():
    uniform, own = np.full((4, 4), 0.25), np.eye(4)
    assert heads._numbers(own) == (0.0, 0.0, 0.0)
    assert heads._numbers(uniform) == (2.0, 1.25, 0.0)
    mixed = np.array([[1.5, -0.5], [0.0, 0.0]])
    assert heads._numbers(mixed) == (0.0, 0.0, 0.25)


@pytest.mark.slow
def test_maps_are_drawn_and_written(saved, tmp_path):
    folder, model = saved
    found = heads.look(model, TEXT)
    assert [(head.layer, head.head) for head in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for head in found:
        np.testing.assert_allclose(head.weights.sum(axis=1), 1, atol=1e-4)
        assert not np.triu(head.weights, 1).any()
    out = tmp_path / "maps"
    assert inspect(Inspecting(str(folder), "def <b>(x):", None, str(out))) == 0
    assert {path.name for path in out.iterdir()} == {
        "attention.html", "layer_0.png", "layer_0.svg", "layer_1.png", "layer_1.svg",
    }  # fmt: skip
    page = (out / "attention.html").read_text()
    assert "def &lt;b&gt;(x):" in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_any_kernel_can_be_looked_at(tmp_path):
    description = described(attention=(Nystrom(landmarks=4),), is_causal=False, is_tied=True)
    language.save(tmp_path / "one", description, description.build())
    assert inspect(Inspecting(str(tmp_path / "one"), "a text", None, str(tmp_path / "maps"))) == 0
    with pytest.raises(ValueError, match="--text is empty"):
        Inspecting(str(tmp_path / "one"), "", None, "")
    with pytest.raises(ValueError, match="--text has 17 bytes: the model was built for at most 16"):
        inspect(Inspecting(str(tmp_path / "one"), "x" * 17, None, str(tmp_path / "maps")))


def test_a_label_for_each_byte():
    assert plot.characters("a b$\nä") == ["a", "␣", "b", r"\$", "⏎", "c3", "a4"]
