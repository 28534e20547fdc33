"""Disputes: rules decide as they say, and a command leads from flags to a verdict."""

import json
import math
import pathlib
import shlex

import pytest

from attnzoo.models import presets
from experiments.bench import records
from experiments.bench.settings import parsed
from experiments.disputes import cases, models, rules, run, settings
from experiments.disputes.rules import Heard, Verdict
from experiments.suites.settings import Settings as Suite
from experiments.train.sweep.cells import cells as models_of
from experiments.train.sweep.settings import Settings as Training
from tests import summaries


def heard(score=0.0, spread=0.005, *, elsewhere=None, solved=math.inf, state_bytes=1.0, falling=()):
    """Five seeds around a score."""
    scores = {seed: min(1.0, score + spread * (seed - 2)) for seed in range(5)}
    at = {80: {seed: elsewhere + spread * (seed - 2) for seed in range(5)}} if elsewhere is not None else {}
    return Heard(
        scores, at, {seed: solved * (1 + seed / 100) for seed in range(5)}, state_bytes, 512, frozenset(falling)
    )


RESTORES, LOCAL = rules.Restores("full", "alone", "mixed"), rules.IsLocal("full", "window", trivial=0.1)
DELAYS, ONE = rules.Delays("small", "large", steps=100), rules.OnlyOne("able", "unable", length=80, chance=0.5)
SCORES = rules.Scores("one", claimed=0.6, other=0.633)
CASES = [
    (RESTORES, {"full": heard(0.99), "alone": heard(0.5), "mixed": heard(0.985)}, Verdict.HOLDS),
    (RESTORES, {"full": heard(0.99), "alone": heard(0.5), "mixed": heard(0.8)}, Verdict.FAILS),
    (RESTORES, {"full": heard(0.99), "alone": heard(0.5), "mixed": heard(0.96, 0.04)}, Verdict.UNDECIDED),
    (RESTORES, {"full": heard(0.8), "alone": heard(0.5), "mixed": heard(0.8)}, Verdict.UNDECIDED),
    (RESTORES, {"full": heard(0.99), "alone": heard(0.95), "mixed": heard(0.99)}, Verdict.UNDECIDED),
    (RESTORES, {"full": heard(0.99), "alone": heard(0.5, falling=[3]), "mixed": heard(0.99)}, Verdict.UNDECIDED),
    (RESTORES, {"full": heard(0.99), "alone": heard(0.5), "mixed": heard(0.8, falling=[3])}, Verdict.UNDECIDED),
    (RESTORES, {"full": heard(0.99), "alone": heard(0.5), "mixed": heard(0.985, falling=[3])}, Verdict.HOLDS),
    (DELAYS, {"small": heard(solved=20), "large": heard(solved=80)}, Verdict.HOLDS),
    (DELAYS, {"small": heard(solved=20), "large": heard()}, Verdict.HOLDS),
    (DELAYS, {"small": heard(solved=80), "large": heard(solved=20)}, Verdict.FAILS),
    (DELAYS, {"small": heard(), "large": heard()}, Verdict.UNDECIDED),
    (ONE, {"able": heard(elsewhere=0.98), "unable": heard(elsewhere=0.5)}, Verdict.HOLDS),
    (ONE, {"able": heard(elsewhere=0.5), "unable": heard(elsewhere=0.5)}, Verdict.FAILS),
    (ONE, {"able": heard(elsewhere=0.98), "unable": heard(elsewhere=0.98)}, Verdict.FAILS),
    (ONE, {"able": heard(elsewhere=0.9), "unable": heard(elsewhere=0.5)}, Verdict.UNDECIDED),
    (rules.GoesBy(), {str(n): heard(n / 10, 0.001, state_bytes=n) for n in range(5)}, Verdict.HOLDS),
    (rules.GoesBy(), {str(n): heard(n / 10, 0.001, state_bytes=9 - n) for n in range(5)}, Verdict.FAILS),
    (rules.GoesBy(), {str(n): heard(n / 10, 0.001, state_bytes=n, falling=[n]) for n in range(5)}, Verdict.UNDECIDED),
    (rules.GoesBy(), {str(n): heard(0.99 + n / 500, 0.0, state_bytes=n) for n in range(5)}, Verdict.UNDECIDED),
    (rules.GoesBy(), {str(n): heard(n / 10, 0.001, state_bytes=100 + n) for n in range(5)}, Verdict.UNDECIDED),
    (SCORES, {"one": heard(0.6)}, Verdict.HOLDS),
    (SCORES, {"one": heard(0.63)}, Verdict.FAILS),
    (SCORES, {"one": heard(0.616)}, Verdict.UNDECIDED),
    (SCORES, {"one": heard(0.615, 0.03)}, Verdict.UNDECIDED),
    (LOCAL, {"full": heard(0.4), "window": heard(0.4)}, Verdict.HOLDS),
    (LOCAL, {"full": heard(0.4), "window": heard(0.3)}, Verdict.FAILS),
    (LOCAL, {"full": heard(0.12), "window": heard(0.12)}, Verdict.UNDECIDED),
    (LOCAL, {"full": heard(0.4), "window": heard(0.3, falling=[0])}, Verdict.UNDECIDED),
]


@pytest.mark.parametrize("rule, contenders, verdict", CASES, ids=lambda x: getattr(x, "value", type(x).__name__))
def test_rules(rule, contenders, verdict):
    judgement = rule.judge(contenders)
    assert judgement.verdict is verdict, judgement
    assert any(letter.isdigit() for letter in judgement.detail)


@pytest.mark.parametrize("name", cases.DISPUTES)
def test_every_dispute_can_be_asked_for(name):
    dispute = cases.DISPUTES[name]
    asked = Training if models.module(dispute) == models.ONE else Suite
    given = parsed(asked, **dispute.flags | {"kernels": ", ".join(dispute.contenders)})
    assert len(presets.parse(", ".join(dispute.contenders))) == len(set(dispute.contenders))
    for field in ("full", "alone", "mixed", "small", "large", "able", "unable", "window", "kernel"):
        assert getattr(dispute.rule, field, dispute.contenders[0]) in dispute.contenders
    if isinstance(dispute.rule, rules.OnlyOne):
        assert dispute.rule.length in given.eval_lengths
        assert dispute.rule.chance == given.tasks[0].chance
    if isinstance(dispute.rule, rules.Delays):
        assert dispute.rule.steps == given.steps and given.validate_every
    assert repr(dispute.rule).endswith("()") != ("Here: " in run.told(dispute))
    named = settings.LARGE if dispute.wants_card else settings.SMALL
    assert name in named.split(", ")


HYBRID = cases.DISPUTES["hybrid"]


def left(given, scores, **changes):
    """Rows of the models that a command trains, with scores by contender."""
    sweep = parsed(Training, **given)
    pathlib.Path(sweep.out).mkdir(exist_ok=True)
    for cell in models_of(sweep):
        score = next(found for text, found in scores.items() if cell.kernel == presets.parse(text)[0])
        found = {"status": "measured", "score": score, "validation": -score, "validations": [[600, -score]]}
        row = cell.row(sweep) | found | {"curve": [], "state_bytes": 1, "answers": 64} | changes
        records.append(pathlib.Path(sweep.out), row)


def test_a_verdict_is_a_row_a_table_and_a_figure(tmp_path, monkeypatch):
    commands = []

    def trained(words):
        """What the command would leave."""
        commands.append(words)
        given = dict(word.removeprefix("--").split("=", 1) for word in words[2:])
        falling = [(step, 12.0 - step) for step in range(12)]
        left(given, {cases.FULL: 1.0, cases.SUMS: 0.4, cases.HYBRID: 0.995})
        left(given | {"kernels": cases.FULL}, {cases.FULL: 1.0}, curve=falling)
        return 0

    monkeypatch.setattr(run, "_trained", trained)
    given = parsed(settings.Settings, disputes="hybrid", seeds=2, out=str(tmp_path))
    assert run.run(given) == 0 and run.run(given) == 0
    assert len(commands) == 1, "a verdict stays"
    [row] = run.EXPERIMENT.read(tmp_path)
    assert row["verdict"] == "holds" and "-60.0" in row["detail"]
    assert row["detail"].endswith("the loss of 2 of 6 models still fell; 2 seeds, which supports no claim")
    assert "arXiv:2403.19887" in summaries.of(tmp_path) and (tmp_path / "verdicts.png").stat().st_size > 5000


def test_another_reader_decides_by_other_seeds(tmp_path, monkeypatch):
    settled = {"kernels": ", ".join(HYBRID.contenders), "out": str(tmp_path)} | HYBRID.flags
    left(settled | {"seeds": 6}, dict.fromkeys(HYBRID.contenders, 0.5))
    heard = models.heard(HYBRID, settled | {"seeds": 2, "first_seed": 4}, range(4, 6))
    assert {tuple(each.scores) for each in heard.values()} == {(4, 5)}
    given = parsed(settings.Settings, disputes="hybrid", seeds=2, first_seed=4, out=str(tmp_path))
    assert "--first_seed=4" in run.command(given, "hybrid", HYBRID)
    [[cell]] = run.EXPERIMENT.cells(given)
    plain = parsed(settings.Settings, disputes="hybrid", seeds=2, out=str(tmp_path))
    [[other]] = run.EXPERIMENT.cells(plain)
    assert run.EXPERIMENT.identity(cell.row) != run.EXPERIMENT.identity(other.row)
    assert {cell.seed for cell in models_of(parsed(Training, seeds=2, first_seed=4))} == {4, 5}


def test_seeds_that_tune_try_every_rate_and_others_the_chosen_one(tmp_path):
    asked = parsed(settings.Settings, disputes="hybrid, windows", seeds=5, tuning_seeds=2, out=str(tmp_path))
    hybrid, windows = (run.command(asked, name, cases.DISPUTES[name]) for name in ("hybrid", "windows"))
    assert "--tuning_seeds=2" in hybrid and "tuning" not in windows, "windows have one rate, and nothing to choose"
    fields = [cell.row.get("tuning_seeds") for [cell] in run.EXPERIMENT.cells(asked)]
    assert fields == [2, None]
    given = dict(word.removeprefix("--").split("=", 1) for word in shlex.split(hybrid)[3:])
    assert len(models.hours(HYBRID, given)[0]) == 3 * (2 * 2 + 3)
    left(given, dict.fromkeys(HYBRID.contenders, 0.5))
    left(given | {"seeds": 5, "tuning_seeds": 0, "learning_rates": "3e-3"}, dict.fromkeys(HYBRID.contenders, 0.8))
    heard = models.heard(HYBRID, given, range(5))
    assert all(each.scores == dict.fromkeys(range(5), 0.8) for each in heard.values()), "of the rate that is better"


def test_models_of_other_flags_say_nothing(tmp_path):
    own = {"kernels": ", ".join(HYBRID.contenders), "out": str(tmp_path), "seeds": 2} | HYBRID.flags
    left(own, dict.fromkeys(HYBRID.contenders, 0.5))
    left(own | {"steps": 5}, dict.fromkeys(HYBRID.contenders, 0.9))
    assert all(set(each.scores.values()) == {0.5} for each in models.heard(HYBRID, own, range(2)).values())
    with pytest.raises(ValueError, match="0 of 2 seeds were measured"):
        models.heard(HYBRID, own | {"steps": 6}, range(2))


def test_a_suite_decides_by_its_score(tmp_path, monkeypatch):
    """A command leads from the flags to the score of each seed; what is missing is told."""

    def trained(words):
        given = dict(word.removeprefix("--").split("=", 1) for word in words[2:])
        assert words[1] == "experiments.suites" and given["suite"] == "mad" and given["seeds"] == "2"
        out = pathlib.Path(given["out"], "published", "mad")
        out.mkdir(parents=True)
        [kernel] = presets.parse("gla")
        told = {"kernel": presets.identity(kernel), "seeds": {"0": 0.629, "1": 0.635}, "falling": [1]}
        (out / "scores.json").write_text(json.dumps([told]))
        return 0

    monkeypatch.setattr(run, "_trained", trained)
    given = parsed(settings.Settings, disputes="scores", seeds=2, out=str(tmp_path))
    assert run.run(given) == 0
    [row] = run.EXPERIMENT.read(tmp_path)
    assert row["verdict"] == "undecided" and row["scores"] == {"gla": [0.629, 0.635]}
    assert "the loss of 1 of 2 models still fell" in row["detail"]
    with pytest.raises(ValueError, match="gla: 2 of 3 seeds were measured"):
        models.heard(cases.DISPUTES["scores"], run._given(given, "scores", cases.DISPUTES["scores"]), range(3))


def test_models_that_are_missing_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_trained", lambda words: 0)
    given = parsed(settings.Settings, disputes="hybrid", seeds=2, out=str(tmp_path))
    assert run.run(given) == 1
    [row] = run.EXPERIMENT.read(tmp_path)
    assert row["status"] == "failed" and "softmax: 0 of 2 seeds were measured" in row["reason"]


def test_a_list_of_disputes_trains_nothing(tmp_path, capsys):
    given = parsed(settings.Settings, disputes="eigenvalues", seeds=2, out=str(tmp_path), dry_run=True)
    assert run.run(given) == 0
    told = capsys.readouterr().out
    for part in ("Grazzi", "rule: `able` does", "8 models, about", "python -m experiments.accuracy", "--seeds=2"):
        assert part in told
    assert not list(tmp_path.iterdir())
