"""The recurrent encoder-decoder and its dates: scores as papers write them, padding without effect, one row a model."""

import datetime

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from attnzoo.models.recurrent import SCORES, Pairs, RecurrentEncoderDecoder
from experiments.alignment import run
from experiments.bench import records
from experiments.tasks import dates
from tests import summaries


def made(score="additive"):
    model = RecurrentEncoderDecoder(9, 7, width=6, score=score, rngs=nnx.Rngs(1))
    source = jax.random.randint(jax.random.key(0), (3, 8), 1, 9)
    return model, source, jnp.array([8, 5, 1])


@pytest.mark.parametrize("score", SCORES)
def test_weights_are_the_softmax_of_the_score(score):
    model, source, lengths = made(score)
    state, (annotations, _) = model._encode(source, lengths)
    _, _, weights = model._step(state, jnp.zeros(3, int), (annotations, lengths))
    s, h = np.asarray(state, float), np.asarray(annotations[:, :, 0], float)
    if score == "additive":
        p = {name: np.asarray(x[...], float)[0] for name, x in model.attention.items()}
        hidden = np.tanh((s @ p["query"])[:, None] + h @ p["key"] + p["bias"])
        scores = hidden @ p["score"]
    else:
        s = s @ np.asarray(model.bridge.kernel[...], float) if score == "general" else s
        scores = np.einsum("bh,bsh->bs", s, h)
    scores = np.where(np.arange(8) < np.asarray(lengths)[:, None], scores, -np.inf)
    expected = np.exp(scores - scores.max(1, keepdims=True))
    np.testing.assert_allclose(weights, expected / expected.sum(1, keepdims=True), atol=1e-5)


def test_decoding_follows_the_logits():
    """The tokens that `decode` gives are the likeliest by the logits that it would be trained with."""
    model, source, lengths = made()
    tokens, weights = model.decode(source, lengths, start=6, steps=5)
    previous = jnp.concatenate([jnp.full((3, 1), 6), tokens[:, :-1]], axis=1)
    np.testing.assert_array_equal(model(Pairs(source, lengths, previous)).argmax(-1), tokens)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


def test_padding_touches_nothing():
    model, source, lengths = made()
    garbage = jnp.where(jnp.arange(8) < lengths[:, None], source, 3)
    previous = jnp.zeros((3, 4), int)
    outs = [model(Pairs(x, lengths, previous)) for x in (source, garbage)]
    np.testing.assert_array_equal(*outs)
    alone = model(Pairs(source[1:2, :5], lengths[1:2], previous[1:2]))
    np.testing.assert_allclose(outs[0][1:2], alone, atol=1e-5)


def test_an_unknown_score_is_refused():
    with pytest.raises(ValueError, match="score='concat': expected one of additive, dot, general"):
        RecurrentEncoderDecoder(4, 4, width=2, score="concat", rngs=nnx.Rngs(0))


def test_a_date_is_a_function_of_its_number_and_splits_share_no_day():
    pairs = {split: [dates.pair(3, split, index) for index in range(400)] for split in dates.SPLITS}
    assert pairs["train"][7] == dates.pair(3, "train", 7) != dates.pair(4, "train", 7)
    days = [{iso for _, iso in found} for found in pairs.values()]
    assert not (days[0] & days[1] or days[0] & days[2] or days[1] & days[2])
    every = range(dates.FIRST, dates.LAST + 1)
    share = np.mean([dates.split_of(ordinal) == "train" for ordinal in every])
    assert 0.78 < share < 0.82


def test_both_spellings_mean_the_same_day():
    for index in range(300):
        human, iso = dates.pair(0, "test", index)
        day = datetime.date.fromisoformat(iso)
        numbers = {int(part) for part in "".join(c if c.isdigit() else " " for c in human).split()}
        assert day.day in numbers and numbers & {day.year, day.year % 100}
        assert day.month in numbers or dates.MONTHS[day.month - 1][:3].lower() in human.lower()
        for name in dates.WEEKDAYS:
            spelled = name[:3].lower() in human.lower()
            assert not spelled or dates.WEEKDAYS[day.weekday()] == name


def test_no_date_is_too_long():
    month, weekday = (max(names, key=len) for names in (dates.MONTHS, dates.WEEKDAYS))
    filled = {"day": 30, "nth": "30th", "number": 12, "month": month, "weekday": weekday, "year": 1999, "full": 1999}
    assert max(len(form.format(**filled)) for form in dates.FORMS) <= dates.LONGEST


def test_dates_are_encoded_and_what_cannot_be_is_refused():
    source, lengths, target = dates.encoded([dates.Pair("3.5.79", "1979-05-03")])
    assert dates.text_of(target[0]) == "1979-05-03" and lengths[0] == 6 and (source[0, 6:] == dates.PAD).all()
    for human in ("", "x" * (dates.LONGEST + 1), "3 août 1979"):
        with pytest.raises(ValueError, match="printable ASCII"):
            dates.encoded([dates.Pair(human, "1979-05-03")])


@pytest.mark.slow
def test_a_model_is_trained_tested_and_drawn_once(tmp_path):
    given = {"scores": ("dot",), "steps": 3, "batch": 4, "width": 4, "learning_rate": 1e-3, "test_pairs": 5}
    settings = run.Settings(**given, seeds=1, out=str(tmp_path))
    assert run.run(settings) == 0
    (row,) = records.read(tmp_path)
    assert row["status"] == "measured" and 0 <= row["exact_match"] <= 1 and len(row["alignments"]) == run.SHOWN
    weights = np.array(row["alignments"][0]["weights"])
    assert weights.shape == (10, len(row["alignments"][0]["human"]))
    assert (tmp_path / "alignment_dot.png").stat().st_size > 5000
    assert "dot | 1 | " in summaries.of(tmp_path)
    run.run(settings)
    assert len(records.read(tmp_path)) == 1
