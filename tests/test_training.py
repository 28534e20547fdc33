"""Training: what is stopped, killed or damaged goes on to the same result, and what cannot go on says so."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from attnzoo import T5Buckets
from attnzoo.models import BlockConfig, LanguageModel
from experiments.bench import outcome
from experiments.tasks.mqar import MQAR
from experiments.tasks.task import Examples
from experiments.train import ahead, checkpoints, loop, steps
from experiments.train.termination import Termination
from tests.training_run import batch, made, parameters, plan, validated

STEPS = 24
MOMENT = 0.05  # seconds, of a few steps and of saving one


def fit(folder, model=None, **changes):
    model = made() if model is None else model
    return model, loop.fit(model, batch, plan(STEPS, **changes), folder=folder, validate=validated)


def same(first, second):
    """Whether two runs came to the same, but for how long they took."""
    timeless = [dataclasses.replace(progress, seconds=0, compile_seconds=0) for _, progress in (first, second)]
    assert json.dumps(dataclasses.asdict(timeless[0])) == json.dumps(dataclasses.asdict(timeless[1]))
    assert parameters(first[0]) == parameters(second[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed, and its checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    return fit(folder), folder


def damaged(whole, tmp_path):
    """A copy of its checkpoints, as if it had been killed at the end."""
    folder = tmp_path / "damaged"
    shutil.copytree(whole[1], folder)
    return folder


def test_a_model_learns_what_can_be_learned():
    model = LanguageModel(4, BlockConfig(width=16, num_heads=2), max_length=8, num_layers=1, rngs=nnx.Rngs(0))
    tokens = np.tile(np.arange(4), 3)[None, :9].repeat(4, axis=0)
    learned = Examples(tokens[:, :-1], tokens[:, 1:], np.ones((4, 8), np.float32))
    progress = loop.fit(model, lambda step: learned, loop.Plan(60, 3e-2, warmup=5))
    assert np.mean(steps.tested(model, learned)[0]) < 0.1 < progress.curve[0][1]


def test_a_curve_has_the_mean_of_losses_since_its_last_point(monkeypatch):
    losses, step = [], steps.Stepping.__call__

    def heard(*args):
        loss, is_good = step(*args)
        losses.append(float(loss))
        return loss, is_good

    monkeypatch.setattr(steps.Stepping, "__call__", heard)
    model = LanguageModel(4, BlockConfig(width=16, num_heads=2), max_length=8, num_layers=1, rngs=nnx.Rngs(0))
    tokens = np.tile(np.arange(4), 3)[None, :9].repeat(4, axis=0)
    learned = Examples(tokens[:, :-1], tokens[:, 1:], np.ones((4, 8), np.float32))
    progress = loop.fit(model, lambda step: learned, loop.Plan(12, 3e-2, warmup=5))
    assert progress.curve == [(0, losses[0]), (10, np.mean(losses[1:11]))] and progress.recent == losses[11:]


def test_steps_that_follow_each_other_are_steps_of_modules():
    """To the bit: numbers of the model, its optimizer, and the random stream of its dropout."""
    tokens = np.random.default_rng(0).integers(4, size=(3, 2, 9))
    batches = [Examples(x[:, :-1], x[:, 1:], np.ones((2, 8), np.float32)) for x in tokens]

    def stepped(of_modules: bool):
        config = BlockConfig(width=16, num_heads=2, dropout_rate=0.1)
        model = LanguageModel(4, config, max_length=8, num_layers=1, rngs=nnx.Rngs(0))
        state = nnx.Optimizer(model, steps.adamw(steps.cosine(1e-2, 3, 1)), wrt=nnx.Param)
        stepping = steps.Stepping(model, state)
        step = functools.partial(nnx.jit(steps.advance), model, state) if of_modules else stepping
        told = [step(batch, np.float32(0.5)) for batch in batches[:2]]
        stepping.settle()
        told.append(step(batches[2], np.float32(0.5)))
        stepping.settle()
        return told, jax.tree.leaves(nnx.state((model, state)))

    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.map(_plain, stepped(which)) for which in (True, False)))


def _plain(x):
    return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)


def test_a_run_from_its_checkpoint_is_the_run_that_never_stopped(whole, tmp_path):
    """Parameters, optimizer, dropout's random stream and what validation found, to the bit."""
    assert [path.name for path in sorted(whole[1].iterdir())] == ["step_00000015", "step_00000020"]
    same(fit(damaged(whole, tmp_path), made(seed=5)), whole[0])


def test_a_run_that_has_enough_ends(whole, tmp_path):
    """At the validation that says so, on the way of the run that goes on, and from its checkpoint likewise."""
    (_, without), _ = whole
    score = min(found for _, found in without.validations[:-1])
    _, progress = fit(tmp_path, enough=score)
    known = [place for place, found in without.validations if found <= score]
    assert progress.step == known[0] and progress.validations == without.validations[: len(progress.validations)]
    assert progress.step < STEPS and progress.best == known[0]
    again = fit(tmp_path, made(seed=5), enough=score)[1]
    assert again.step == progress.step and [*map(tuple, again.validations)] == progress.validations


DAMAGES = {
    "empty folder": (lambda path: [shutil.rmtree(path), path.mkdir()], "has no about.json"),
    "flipped bit": (lambda path: flip(path), "is damaged"),
    "truncated": (lambda path: [os.truncate(x, x.stat().st_size // 2) for x in arrays(path)], "is damaged"),
    "no arrays": (lambda path: shutil.rmtree(path / "arrays"), "is damaged"),
    "description": (lambda path: (path / "about.json").write_text('{"about":'), "is damaged"),
    "empty description": (lambda path: (path / "about.json").write_text('{"about": {}, "arrays": []}'), "is damaged"),
    "flipped bit of a number": (lambda path: reworded(path, '"step": 20', '"step": 22'), "is damaged"),
    "flipped bit of a name": (lambda path: reworded(path, '"best": ', '"bess": '), "is damaged"),
    "flipped bit of a checksum": (lambda path: reworded(path, '"sha256": "', '"sha256": "0'), "is damaged"),
}


def arrays(path):
    return [x for x in (path / "arrays").rglob("*") if x.is_file() and x.stat().st_size > 100]


def flip(path):
    """A bit of an array's file."""
    largest = max(arrays(path), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)


def reworded(path, old, new):
    about = path / "about.json"
    assert old in about.read_text()
    about.write_text(about.read_text().replace(old, new, 1))


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_taken(whole, tmp_path, capsys, damage):
    folder, (spoil, message) = damaged(whole, tmp_path), DAMAGES[damage]
    spoil(folder / "step_00000020")
    same(fit(folder), whole[0])
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.startswith("warning: ")]) == 1
    assert message in said[0] and "the checkpoint before it is taken" in said[0]


def test_without_a_good_checkpoint_a_run_starts_anew(whole, tmp_path, capsys):
    folder = damaged(whole, tmp_path)
    for path in folder.iterdir():
        flip(path)
    same(fit(folder), whole[0])
    assert capsys.readouterr().err.count("warning: ") == 2


def test_good_checkpoints_stay_beside_damaged_ones_with_higher_numbers(whole, tmp_path, capsys):
    """What cannot be read must not push out what can."""
    folder = damaged(whole, tmp_path)
    shutil.rmtree(folder / "step_00000020")
    for step in (20, 25):
        (folder / f"step_{step:08d}").mkdir()
    same(fit(folder), whole[0])
    assert capsys.readouterr().err.count("warning: ") == 2
    assert [path.name for path in sorted(folder.iterdir())] == ["step_00000015", "step_00000020"]
    assert all((path / "about.json").exists() for path in folder.iterdir())


def test_what_could_not_be_written_is_removed(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.json, "dump", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.write(tmp_path / "one", {"x": jnp.ones(3)}, {})
    assert not (tmp_path / "one").exists()


def test_a_checkpoint_of_another_type_is_not_taken(whole, tmp_path, capsys):
    """Orbax would fill bfloat16 from float32 without a word."""
    folder = damaged(whole, tmp_path)
    tree = {"x": jnp.ones(3)}
    checkpoints.write(folder / "step_00000021", tree, {})
    with pytest.raises(ValueError, match=r"x is float32\[3\] there, and bfloat16\[3\] in the model"):
        checkpoints.read(folder / "step_00000021", {"x": jnp.ones(3, jnp.bfloat16)})
    same(fit(folder), whole[0])
    assert "is a checkpoint of another model" in capsys.readouterr().err


def test_a_full_disk_does_not_end_a_run(whole, tmp_path, capsys, monkeypatch):
    write, calls = checkpoints.write, []

    def full(folder, tree, about):
        calls.append(folder.name)
        if len(calls) in (2, 3):
            raise OSError(28, "No space left on device")
        write(folder, tree, about)

    monkeypatch.setattr(checkpoints, "write", full)
    same(fit(tmp_path), whole[0])
    said = capsys.readouterr().err
    assert said.count("could not be saved, [Errno 28] No space left on device; training goes on") == 2
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_00000005", "step_00000020"]


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_an_os_error(tmp_path):
    """What a full disk does to the library that writes arrays, by a limit on the size of files."""
    code = (
        "import pathlib, resource, signal, numpy as np\nfrom experiments.train import checkpoints\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n    checkpoints.write(pathlib.Path(%r), {'x': np.random.normal(size=10000)}, {})\n"
        "except OSError as error:\n    print('an OSError')"
    )
    done = subprocess.run([sys.executable, "-c", code % str(tmp_path / "one")], capture_output=True, text=True)
    assert done.stdout == "an OSError\n", done.stderr
    with pytest.raises(ValueError, match="is no checkpoint"):
        checkpoints.about(tmp_path / "one")


def test_a_step_without_a_number_changes_nothing_and_ends_the_run():
    good, bad = made(dropout_rate=0.0), made(dropout_rate=0.0)
    loop.fit(good, batch, loop.Plan(8, 1e-2))

    def spoiled(step):
        found = batch(step)
        return found._replace(weights=found.weights * np.nan) if step == 3 else found

    progress = loop.fit(bad, spoiled, loop.Plan(8, 1e-2))
    assert progress.diverged == progress.step == 3
    stopped = made(dropout_rate=0.0)
    loop.fit(stopped, lambda step: batch(step) if step < 3 else spoiled(3), loop.Plan(8, 1e-2))
    assert parameters(bad) == parameters(stopped) != parameters(good)
    assert np.isfinite(np.concatenate([np.ravel(x) for x in parameters(bad)])).all()


def test_the_best_validation_is_kept():
    scores = iter([math.nan, 3.0, 1.0, 2.0, 4.0])
    kept = {}

    def validate(model):
        kept[len(kept)] = parameters(model)
        return next(scores)

    model = made()
    progress = loop.fit(model, batch, plan(10, validate_every=2), validate=validate)
    assert progress.validations == [(4, 3.0), (6, 1.0), (8, 2.0), (10, 4.0)]
    assert progress.best == 6
    assert parameters(model) == kept[2]


def test_training_ends_where_validation_finds_nothing_better_for_long(tmp_path):
    """Also where it goes on from a checkpoint of before; a score that is as good as the best counts as better."""
    scores = [3.0, 3.0, 4.0, 2.0, 5.0, math.nan, 2.5, 1.0]
    rest, ended = iter(scores), []
    for last in (9, 16):
        model = made()
        chosen = plan(16, validate_every=2, save_every=1, patience=2)
        heard = lambda progress, last=last: progress.step == last and os.kill(os.getpid(), signal.SIGTERM)
        with contextlib.suppress(outcome.Stopped):
            ended.append(loop.fit(model, batch, chosen, folder=tmp_path, validate=lambda model: next(rest), told=heard))
    [progress] = ended
    assert [step for step, _ in progress.validations] == [2, 4, 6, 8, 10, 14] and progress.step == 14
    assert progress.best == 8


def test_schedules():
    cosine, rsqrt = steps.cosine(1.0, 100, 10), steps.rsqrt(1.0, 16)
    np.testing.assert_allclose([cosine(0), cosine(10), cosine(100)], [0, 1, 0.1], atol=1e-6)
    np.testing.assert_allclose([rsqrt(0), rsqrt(7), rsqrt(15), rsqrt(63)], [1 / 16, 0.5, 1, 0.5], atol=1e-6)
    with pytest.raises(ValueError, match="schedule='linear': expected one of cosine, rsqrt"):
        loop.Plan(3, 0.1, schedule="linear")


def test_plans_that_differ_in_the_rate_share_a_program():
    first, second = (loop.Plan(3, rate) for rate in (1e-2, 3e-2))
    assert first.transform() is second.transform() and first.transform() is not loop.Plan(4, 1e-2).transform()
    models = [made(dropout_rate=0.0) for _ in range(2)]
    for model, chosen in zip(models, (first, second), strict=True):
        loop.fit(model, batch, chosen)
    assert parameters(models[0]) != parameters(models[1])


def test_examples_are_made_one_step_ahead_and_none_behind_the_end():
    asked = []
    with ahead.made(lambda step: asked.append(step) or step, 3) as examples:
        assert [examples(step) for step in range(3)] == [0, 1, 2]
    assert asked == [0, 1, 2]
    with ahead.made(lambda step: 1 / step, 2) as examples, pytest.raises(ZeroDivisionError):
        examples(0)


def test_matrices_decay_and_nothing_else():
    """With gradients of 0, what moves is what decays: no biases, of heads or of distances, which have two axes, too."""
    config = BlockConfig(width=8, num_heads=2)
    model = LanguageModel(5, config, max_length=8, num_layers=1, positions=T5Buckets(), rngs=nnx.Rngs(0))
    nnx.update(model, jax.tree.map(lambda x: x + 1.0, steps.copied(model, nnx.Param)))
    before = dict(nnx.to_flat_state(steps.copied(model, nnx.Param)))
    state = nnx.Optimizer(model, steps.adamw(optax.constant_schedule(0.1), 0.5), wrt=nnx.Param)
    nothing = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    nnx.jit(lambda state, model: state.update(model, nothing))(state, model)
    after = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    for path, variable in before.items():
        factor = 0.95 if path[-1] in ("kernel", "embedding") else 1.0
        np.testing.assert_allclose(after[path][...], factor * variable[...], rtol=1e-5, err_msg=str(path))
    assert ("stack", "blocks", 0, "attention", "positions") in before
    assert not [path for path in before if "draw" in str(path)]


def test_moments_in_one_vector_are_those_of_each_parameter():
    rng = np.random.default_rng(0)
    drawn = lambda: {"kernel": jnp.asarray(rng.normal(size=(3, 4))), "bias": jnp.asarray(rng.normal(size=4))}
    params, gradients = drawn(), [drawn() for _ in range(3)]
    found, sizes = [], []
    for is_split in (False, True):
        transform = steps.adamw(steps.cosine(1e-2, 3, 1), 0.1, 0.5, is_split=is_split)
        own, state = params, transform.init(params)
        sizes.append({x.size for x in jax.tree.leaves(state)})
        for each in gradients:
            updates, state = transform.update(each, state, own, peak=0.5)
            own = optax.apply_updates(own, updates)
        found.append(own)
    jax.tree.map(lambda one, each: np.testing.assert_allclose(one, each, rtol=1e-5), *found)
    assert sizes == [{1, 16}, {1, 4, 12}]


def run(folder):
    command = [sys.executable, "-m", "tests.training_run", str(folder), str(STEPS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(folder, rng, most):
    """Start the run and kill it some time after a random number of steps, up to `most`: its code, and its last word."""
    process, said, left = run(folder), [], rng.randint(1, most)
    for line in process.stdout:
        said.append(json.loads(line))
        if len(said) == left:
            time.sleep(rng.uniform(0, MOMENT))
            process.kill()
    return process.wait(), said[-1]


def kills(tmp_path, times, most, seed):
    """What a run ends with that is killed up to so many times, and how often it was."""
    rng, ended, count, reached = random.Random(seed), None, 0, 0
    while ended is None:
        code, found = killed(tmp_path / "run", rng, most if count < times else 10**6)
        if isinstance(found, dict):
            ended = found
        else:
            assert code == -signal.SIGKILL
            assert found > reached - plan(1).save_every - 1  # no more is lost than since the last checkpoint
            reached, count = max(found, reached), count + 1
    return ended, count


def undisturbed(tmp_path):
    said = run(tmp_path / "undisturbed").communicate(timeout=120)[0]
    return json.loads(said.strip().splitlines()[-1])


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(tmp_path):
    ended, count = kills(tmp_path, 1, 9, seed=0)
    assert count >= 1 and ended == undisturbed(tmp_path)


@pytest.mark.slow
def test_runs_that_are_killed_at_twenty_random_moments(tmp_path):
    expected, total = undisturbed(tmp_path), 0
    while total < 20:
        ended, count = kills(tmp_path / str(total), 20 - total, 7, seed=total)
        assert ended == expected
        total += count


def test_sigterm_finishes_the_step_and_saves(tmp_path):
    process = run(tmp_path)
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == outcome.STOPPED
    last = int((said.strip().splitlines() or ["1"])[-1])
    assert checkpoints.about(tmp_path / f"step_{last:08d}")["step"] == last


def stopped_at(folder, count, validate=None):
    """The step that a run of so many saves as it is asked to end, from which the same call goes on."""
    with pytest.raises(outcome.Stopped) as stopped:
        loop.fit(made(), batch, plan(count, validate_every=count, save_every=9), folder=folder, validate=validate)
    [path] = folder.glob("step_*")
    assert f"after step {checkpoints.about(path)['step']} " in str(stopped.value)
    return checkpoints.about(path)["step"]


def test_sigterm_before_the_first_step_and_in_the_last_one(tmp_path):
    with Termination():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped_at(tmp_path / "before", 2) == 1
    at_the_end = lambda model: os.kill(os.getpid(), signal.SIGTERM) or 1.0
    with Termination() as outer:
        assert stopped_at(tmp_path / "last", 2, at_the_end) == 2 and outer.is_asked
    assert loop.fit(made(), batch, plan(2, validate_every=2), folder=tmp_path / "last").step == 2


@pytest.mark.slow
def test_several_devices_share_a_batch():
    """Two devices give what one gives, up to rounding."""
    code = (
        "import numpy as np\nfrom tests.training_run import *\nfound, devices = [], jax.local_devices\n"
        "for local in (devices, lambda: devices()[:1]):\n    jax.local_devices = local\n"
        "    model = made(dropout_rate=0.0)\n"
        "    print(loop.fit(model, batch, plan(3, validate_every=0, save_every=0)).devices)\n"
        "    found.append(np.concatenate([np.ravel(x) for x in parameters(model)]))\n"
        "print(abs(found[0] - found[1]).max())"
    )
    done = on_devices(2, code)
    *counts, deviation = done.stdout.split()
    assert counts == ["2", "1"] and "warning" not in done.stderr, done.stderr
    assert float(deviation) < 1e-4


def on_devices(count, code):
    """A process that has so many devices runs `code`."""
    flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | flags)


@pytest.mark.slow
def test_a_batch_that_devices_do_not_divide_is_said_and_recorded():
    """Four examples, and five in the second step, on three devices."""
    code = (
        "from tests.training_run import *\n"
        "one = lambda step: jax.tree.map(lambda x: np.concatenate([x, x[:1]]) if step == 1 else x, batch(step))\n"
        "for examples in (batch, one):\n"
        "    model = made(dropout_rate=0.0)\n"
        "    print(loop.fit(model, examples, plan(2, validate_every=0, save_every=0)).devices)\n"
    )
    done = on_devices(3, code)
    assert done.stdout.split() == ["2", "1"], done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    assert [line.partition(";")[0] for line in said] == [
        "warning: a batch of 4 examples: of 3 devices, 2 are used",
        "warning: a batch of 4 examples: of 3 devices, 2 are used",
        "warning: a batch of 5 examples: each of 2 devices computes all of it",
    ]


@pytest.mark.slow
def test_a_model_that_speaks_at_places_alone_learns_the_same():
    model = LanguageModel(20, BlockConfig(width=8, num_heads=2), max_length=16, num_layers=1, rngs=nnx.Rngs(0))
    placed = MQAR(pairs=3, vocabulary=20).batch("train", 0, 0, 4, 16)
    whole = placed._replace(places=None)
    assert steps.logits(model, placed).shape == (4, 3, 20) and steps.logits(model, whole).shape == (4, 16, 20)
    whole.targets[whole.weights == 0] = 7  # nobody asks
    (bits, said), (every_bit, all_said) = steps.tested(model, placed), steps.tested(model, whole)
    np.testing.assert_allclose(bits, every_bit * whole.weights, atol=1e-5)
    np.testing.assert_array_equal(said, all_said * whole.weights)
    graded = nnx.jit(nnx.value_and_grad(steps._loss))
    losses = [graded(model, examples) for examples in (placed, whole)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *losses)
