"""Tasks: examples are a pure function of their number, splits share none, and answers are right by other means."""

import collections
import dataclasses
import itertools
import math
import re
import statistics
import sys

import numpy as np
import pytest

from experiments import tasks
from experiments.tasks import digits, listops, modules, mqar, needle, task, text
from experiments.tasks.copying import Copy, PackedCopy, SelectiveCopy
from experiments.tasks.digits import Digits
from experiments.tasks.draws import Draws
from experiments.tasks.flipflop import FlipFlop
from experiments.tasks.formal import BracketedArithmetic, CycleNavigation, ModularArithmetic, Parity
from experiments.tasks.induction import Induction
from experiments.tasks.listops import ListOps
from experiments.tasks.mad import MADCompression, MADFuzzyRecall, MADMemorization, MADRecall, MADSelectiveCopy
from experiments.tasks.modules import Modules
from experiments.tasks.mqar import MQAR, MixedMQAR
from experiments.tasks.needle import Needle
from experiments.tasks.phonebook import Phonebook
from experiments.tasks.recall import Recall
from experiments.tasks.text import MaskedText, Text
from experiments.tasks.words import WordProblem
from experiments.tasks.wrapped import Denoised, Epochs, Shuffled, TwoSided

SHORT = ListOps(min_length=None, max_length=None)
CASES = [
    (Text(), 40), (MaskedText(), 40), (SHORT, 48), (ListOps(), 2000), (MQAR(pairs=3, vocabulary=20), 30),
    (MQAR(pairs=2, vocabulary=20, is_noisy=True), 16), (Copy(), 31), (SelectiveCopy(), 48), (Induction(), 33),
    (Needle(), 80), (Needle(depth=0.5, digits=2), 90), (Modules(), 64), (Digits(), 64), (Recall(), 40),
    (MixedMQAR(20, False, ((12, 2, 2), (16, 3, 1)), ((16, 2), (16, 3))), 16), (PackedCopy(shortest=2, longest=5), 30),
    (Phonebook(), 300), (FlipFlop(), 31), (Parity(), 20), (CycleNavigation(), 20), (ModularArithmetic(), 20),
    (BracketedArithmetic(), 50), (WordProblem(), 12), (WordProblem("A4xZ5"), 12), (MADRecall(), 31),
    (MADRecall(32, 0.4, 16), 31), (MADFuzzyRecall(), 48), (MADSelectiveCopy(), 40), (MADMemorization(), 32),
    (MADCompression(), 32),
    (Epochs("mqar(pairs=2, vocabulary=20)", 5), 16), (Shuffled("digits", 8), 64), (Denoised("digits", 0.5), 64),
    (Denoised("listops(min_length=None, max_length=None)", 0), 48), (TwoSided("mqar(pairs=2, vocabulary=20)"), 16),
]  # fmt: skip


def one_case(case):
    return case[0]


@pytest.fixture(params=CASES, ids=lambda case: tasks.spelled(case[0]))
def case(request):
    return request.param


def examples_of(batch):
    return [tuple(None if part is None else part[row].tobytes() for part in batch) for row in range(len(batch.inputs))]


def test_an_example_is_a_function_of_its_number(case):
    chosen, length = case
    whole = examples_of(chosen.batch("train", 5, 0, 6, length))
    parts = [examples_of(dataclasses.replace(chosen).batch("train", 5, index, 1, length))[0] for index in (4, 2, 5, 3)]
    assert parts == [whole[index] for index in (4, 2, 5, 3)]
    assert len(set(whole)) > 3 and whole != examples_of(chosen.batch("train", 6, 0, 6, length))


def test_batches_are_all_of_the_examples_and_the_last_may_be_smaller(case):
    chosen, length = case
    parts = list(chosen.batches("test", 0, 5, 2, length))
    assert [len(part.inputs) for part in parts] == [2, 2, 1]
    joined = [example for part in parts for example in examples_of(part)]
    assert joined == examples_of(chosen.batch("test", 0, 0, 5, length))


def test_what_a_batch_is_made_of(case):
    chosen, length = case
    inputs, targets, weights, lengths, places = chosen.batch("validation", 0, 3, 4, length)
    assert inputs.shape == (4, length) and inputs.dtype == targets.dtype == np.int32
    assert targets.shape == weights.shape == ((4,) if chosen.classes else (4, length))
    assert weights.dtype == np.float32 and set(np.unique(weights)) <= {0, 1} and weights.sum() >= 4
    assert inputs.min() >= 0 and inputs.max() < chosen.vocabulary
    assert targets.min() >= 0 and targets.max() < (chosen.classes or chosen.vocabulary)
    if lengths is not None:
        assert lengths.dtype == np.int32 and lengths.min() > 0 and lengths.max() <= length
    if places is not None:
        assert places.dtype == np.int32 and [np.flatnonzero(row).tolist() for row in weights] == places.tolist()
    assert 0 < chosen.chance < 1 and hash(chosen) == hash(dataclasses.replace(chosen))


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**32, 2**70])
def test_a_seed_of_any_size_has_random_numbers_of_its_own(seed):
    expected = np.random.default_rng([seed, 1, 5]).random(3)
    np.testing.assert_array_equal(task.generator(seed, "validation", 5).random(3), expected)


def test_draws_of_many_examples_are_those_of_each():
    many = Draws.of(7, "test", range(3, 9))
    for row, index in enumerate(range(3, 9)):
        own, alone = many[np.array([row])], Draws.of(7, "test", [index])
        np.testing.assert_array_equal(own.stream(2).chosen(9, 4), alone.stream(2).chosen(9, 4))
    others = [Draws.of(seed, split, range(3, 9)) for seed, split in ((8, "test"), (7, "train"), (7 + 2**64, "test"))]
    told = [draws.uniform(2) for draws in (many, many.stream(0), many.stream(1), *others)]
    assert len(np.unique(told)) == 6 * 6 * 2


def test_draws_are_uniform_and_independent():
    """Means, variances and correlations over examples, streams and places within five standard errors."""
    count = 40_000
    draws = Draws.of(0, "train", range(count))
    found = np.concatenate([draws.uniform(3), draws.stream(0).uniform(2), draws.stream(1).uniform(1)], axis=1)
    assert found.min() >= 0 and found.max() < 1
    np.testing.assert_allclose(found.mean(0), 0.5, atol=5 / math.sqrt(12 * count))
    np.testing.assert_allclose(found.var(0), 1 / 12, rtol=5 * math.sqrt(0.8 / count))
    np.testing.assert_allclose(np.corrcoef(found.T, np.roll(found, 1, 0).T), np.eye(12), atol=5 / math.sqrt(count))


@pytest.mark.parametrize(("size", "count"), [(5, 3), (20, 2), (3, 3)], ids=["few", "many", "all"])
def test_choices_without_replacement_are_equally_likely(size, count):
    orders = math.perm(size, count)
    chosen = Draws.of(0, "train", range(1000 * orders)).chosen(size, count)
    counts = collections.Counter(map(tuple, chosen.tolist()))
    assert counts.keys() == set(itertools.permutations(range(size), count))
    assert max(abs(found - 1000) for found in counts.values()) < 5 * math.sqrt(1000)


def test_many_are_chosen_without_replacement():
    assert all(len(set(row)) == 100 for row in Draws.of(1, "test", range(50)).chosen(801, 100).tolist())


@pytest.mark.parametrize(
    ("chosen", "length", "shared"),
    [
        (dataclasses.replace(SHORT, max_arguments=2), 6, lambda row: row.inputs),
        (MQAR(pairs=1, vocabulary=20), 4, lambda row: row.inputs[:2]),
        (Copy(symbols=3), 9, lambda row: row.targets[-4:]),
        (SelectiveCopy(count=4, symbols=3), 16, lambda row: row.targets[-4:]),
        (Induction(symbols=2), 7, lambda row: row.inputs),
        (Needle(digits=2), 60, lambda row: row.targets[-2:]),
        (Recall(count=3, symbols=3), 9, lambda row: row.targets[-3:]),
        (Digits(), 64, lambda row: row.inputs),
        (MixedMQAR(12, False, ((4, 1, 1),), ((4, 1),)), 4, lambda row: row.inputs[:2]),
        (PackedCopy(3, 4, 4), 10, lambda row: row.inputs[1:5]),
        (FlipFlop(ignored=0.1), 7, lambda row: row.inputs),
        (Parity(trained=5), 5, lambda row: row.inputs),
        (CycleNavigation(trained=4, size=2), 4, lambda row: row.inputs),
        (ModularArithmetic(modulus=2), 6, lambda row: row.inputs),
        (BracketedArithmetic(modulus=3), 8, lambda row: row.inputs),
        (WordProblem("S3"), 3, lambda row: row.inputs),
        (MADRecall(6), 5, lambda row: row.inputs),
        (MADFuzzyRecall(7, 1, 2), 8, lambda row: np.append(row.inputs, row.targets[-1])),
        (MADSelectiveCopy(5, 4), 12, lambda row: row.targets[-4:]),
        (MADMemorization(8), 8, lambda row: row.inputs),
        (MADCompression(4), 5, lambda row: row.inputs),
        (Epochs("recall(count=3, symbols=3)", 40), 9, lambda row: row.targets[-3:]),
        (Denoised("digits"), 64, lambda row: row.targets),
    ],
    ids=lambda value: tasks.spelled(value) if isinstance(value, task.Task) else "",
)
def test_splits_share_nothing_even_where_there_is_little(chosen, length, shared):
    """Of a few dozen possible examples, hundreds of draws meet most."""
    found = {}
    for split in task.SPLITS:
        examples = [chosen.example(split, 0, index, length) for index in range(160)]
        found[split] = {shared(row).tobytes() for row in examples}
    assert min(map(len, found.values())) > 1
    assert not found["train"] & found["test"] and not found["validation"] & (found["train"] | found["test"])


# ListOps


def worth(words):
    """Of an expression, read as a person reads it."""
    word = words.pop(0)
    if word.isdigit():
        return int(word)
    values = []
    while words[0] != "]":
        values.append(worth(words))
    words.pop(0)
    assert 2 <= len(values) <= 10
    named = {"[MIN": min, "[MAX": max, "[MED": lambda x: int(statistics.median(x)), "[SM": lambda x: sum(x) % 10}
    return named[word](values)


@pytest.mark.parametrize(("chosen", "length", "count"), [(ListOps(), 2048, 40), (SHORT, 50, 100)])
def test_expressions_are_worth_what_is_said(chosen, length, count):
    inputs, targets, _, lengths, _ = chosen.batch("test", 1, 0, count, length)
    shortest, longest = chosen.bounds(length)
    for row, answer, tokens in zip(inputs, targets, lengths, strict=True):
        written = listops.text_of(row).split()
        assert len(written) == tokens and shortest <= tokens <= longest and (row[tokens:] == listops.PAD).all()
        deepest = max(np.cumsum([word[0] == "[" for word in written]) - np.cumsum([word == "]" for word in written]))
        assert 1 <= deepest < chosen.max_depth
        assert worth(written) == answer and not written


def lengths_of_trees(longest=2000):
    """The probability of each length, exactly: of a node at some depth, from that of the nodes below it."""
    leaf = np.zeros(longest + 1)
    leaf[1] = 1
    node = leaf
    for _ in range(9):  # the tenth level has digits alone
        arguments = [node]
        for _ in range(9):
            arguments.append(np.convolve(arguments[-1], node)[: longest + 1])
        node = 0.75 * leaf + 0.25 * np.concatenate([[0, 0], np.mean(arguments[1:], axis=0)])[: longest + 1]
    return node


@pytest.mark.parametrize("count", [1500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_trees_are_as_long_as_the_grammar_has_it(count):
    exact = np.cumsum(lengths_of_trees())
    rng = np.random.default_rng(0)
    trees = [ListOps().tree(rng, 1, 10**6) for _ in range(count)]
    found = np.array([sum(len(level.is_operation) + len(level.arguments) for level in tree) for tree in trees])
    for length in (1, 10, 50, 200, 500, 1000, 1999):
        p = exact[length]
        assert abs(np.mean(found <= length) - p) < 4 * np.sqrt(p * (1 - p) / count)


@pytest.mark.parametrize("count", [1500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_listops_is_the_published_task(count):
    """Figures of samples are within four standard errors, those of the reference as if it had 2,000 examples."""
    chosen, rng = ListOps(), np.random.default_rng(1)
    exact, lengths = lengths_of_trees()[501:2000], np.arange(501, 2000)
    share, mean = exact.sum(), (exact * lengths).sum() / exact.sum()
    spread = np.sqrt((exact * (lengths - mean) ** 2).sum() / share)
    error = lambda p, n: 4 * np.sqrt(p * (1 - p) / n)

    assert abs(share - 0.081) < error(share, 2000 / share) and abs(mean - 1043) < 4 * spread / np.sqrt(2000)
    accepted = np.mean([chosen.tree(rng, 501, 1999) is not None for _ in range(10 * count)])
    assert abs(accepted - share) < error(share, 10 * count)
    batch = chosen.batch("train", 0, 0, count, 2000)
    assert abs(batch.lengths.mean() - mean) < 4 * spread / np.sqrt(count)
    commonest = np.bincount(batch.targets).max() / count
    assert abs(commonest - 0.173) < error(0.173, count) + error(0.173, 2000)


@pytest.mark.slow
def test_the_root_alone_tells_much_of_listops():
    found, majority = ListOps().root_operator(2000, count=1000), ListOps().majority(2000)
    assert abs(found - 0.366) < 4 * np.sqrt(0.366 * 0.634 / 1000)
    assert abs(majority - 0.173) < 4 * np.sqrt(0.173 * 0.827 / 512)


# Recall


@pytest.mark.parametrize("is_noisy", [False, True])
@pytest.mark.parametrize(("length", "pairs"), mqar.PUBLISHED)
def test_queries_are_answered_by_their_pairs(length, pairs, is_noisy):
    chosen = MQAR(pairs=pairs, is_noisy=is_noisy)
    inputs, targets, weights, *_ = chosen.batch("train", 0, 0, 20, length)
    for row, answers, counts in zip(inputs.tolist(), targets.tolist(), weights, strict=True):
        bound = dict(zip(row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
        assert len(bound) == pairs == len(set(bound.values()))
        assert max(bound) < 4096 <= min(bound.values()) and min(bound) >= 1
        places = np.flatnonzero(counts).tolist()
        assert all(place >= 2 * pairs and place % 2 == 0 for place in places)
        assert {row[place]: answers[place] for place in places} == bound and len(places) == pairs
        others = {token for place, token in enumerate(row[2 * pairs :], 2 * pairs) if place not in places}
        assert (len(others) > 10) if is_noisy else others == {0}


def test_keys_and_values_share_the_vocabulary_but_for_zero():
    inputs = MQAR(pairs=9, vocabulary=20).batch("train", 0, 0, 30, 36).inputs
    assert (np.sort(inputs[:, 0:18:2]) == np.arange(1, 10)).all() and set(np.unique(inputs[:, 1:18:2])) == {
        *range(10, 20)
    }


def test_gaps_follow_the_power_law():
    """Each gap is as often among those drawn as NumPy's own drawing without replacement has it."""
    rng = np.random.default_rng(0)
    weights = np.arange(1.0, 25.0) ** -0.99
    theirs = [rng.choice(24, 4, replace=False, p=weights / weights.sum()) for _ in range(4000)]
    ours = mqar._gaps(Draws.of(0, "train", range(4000)), 24, 4)
    for order in (slice(0, 1), slice(3, 4), slice(None)):
        shares = [np.bincount(np.ravel([x[order] for x in found]), minlength=24) / 4000 for found in (theirs, ours)]
        np.testing.assert_allclose(*shares, atol=4 * np.sqrt(0.5 / 4000))


@pytest.mark.parametrize("length", [2, 30, 31])
def test_a_copy_says_the_string_again(length):
    chosen = Copy()
    inputs, targets, weights, *_ = chosen.batch("test", 0, 0, 20, length)
    n, sign = length // 2, chosen.symbols + 1
    for row, answers, counts in zip(inputs.tolist(), targets.tolist(), weights.tolist(), strict=True):
        place = row.index(sign)
        string = row[place - n : place]
        assert row == [0] * (length % 2) + string + [sign] + string[:-1]
        assert answers[place:] == string and counts == [0] * place + [1] * n


def test_a_selective_copy_is_what_is_no_blank():
    chosen = SelectiveCopy(count=6)
    inputs, targets, weights, *_ = chosen.batch("train", 0, 0, 50, 40)
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert [token for token in row[:-6] if token] == answers[-6:] and row[-6:] == [16] * 6
    assert (weights[:, -6:] == 1).all() and not weights[:, :-6].any()
    assert (inputs[:, :-6] != 0).any(axis=0).mean() > 0.95  # the symbols stand anywhere


def test_the_first_sign_tells_the_answer():
    inputs, targets, weights, *_ = Induction().batch("train", 0, 0, 200, 12)
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert row.count(15) == 2 and row[-1] == 15
        assert answers[-1] == row[row.index(15) + 1] != 15
    assert set(np.flatnonzero(weights[0])) == {11} and {row.index(15) for row in inputs.tolist()} == set(range(10))


@pytest.mark.parametrize("depth", needle.DEPTHS)
def test_the_needle_stands_at_its_depth(depth):
    length = 300
    chosen = Needle(depth=depth)
    around = len(needle.QUESTION) + 5 + 1
    inputs, targets, weights, *_ = chosen.batch("test", 0, 0, 8, length)
    elsewhere = Needle().batch("test", 0, 0, 8, length)
    for row, answers, counts in zip(inputs, targets, weights, strict=True):
        written, number = bytes(row.astype(np.uint8)), bytes(answers[counts > 0].astype(np.uint8))
        found = re.search(rb"\n# the number is (\d{5})\n", written)
        assert found[1] == number and written.endswith(needle.QUESTION + number[:-1])
        assert abs(found.start() - depth * (length - 2 * around + 2)) <= 0.5
        hay = written[: found.start()] + written[found.end() : -len(needle.QUESTION) - 4]
        assert hay in text.library().splits["test"].tobytes()
    np.testing.assert_array_equal(targets, elsewhere.targets)  # the same numbers at every depth


def test_text_is_to_be_told_on():
    inputs, targets, weights, *_ = Text().batch("train", 3, 0, 4, 20)
    windows = text.windows(text.load(), "train", 3, 0, 4, 21)
    np.testing.assert_array_equal(inputs, windows[:, :-1])
    np.testing.assert_array_equal(targets, windows[:, 1:])
    assert weights.all()


# Classification of what is stored


@pytest.mark.parametrize("length", [16, 700, 2048])
def test_passages_lie_in_segments_of_their_split(length):
    assert sorted(itertools.chain(*modules.PLACES.values())) == list(range(10))
    for split, places in modules.PLACES.items():
        inputs, targets, *_ = Modules().batch(split, 0, 0, 60, length)
        for row, answer in zip(inputs, targets, strict=True):
            source, passage = modules.sources()[answer].tobytes(), bytes(row.astype(np.uint8))
            starts = [found.start() for found in re.finditer(b"(?=" + re.escape(passage) + b")", source)]
            segments = {start // 2048 % 10 for start in starts if start // 2048 == (start + length - 1) // 2048}
            assert segments & set(places)
        assert set(targets) == set(range(10))


def test_a_pass_meets_every_digit_once():
    pixels, answers = digits.pictures()
    assert pixels.shape == (1797, 64)
    numbers = digits.numbers_of(1797)
    assert sorted(itertools.chain(*numbers.values())) == list(range(1797))
    size = len(numbers["test"])
    passes = [Digits().batch("test", 0, start, size, 64) for start in (0, size)]
    tested = {(pixels[number].tobytes(), answers[number]) for number in numbers["test"]}
    for batch in passes:
        assert {(x.tobytes(), y) for x, y in zip(batch.inputs, batch.targets, strict=True)} == tested
    assert not np.array_equal(passes[0].inputs, passes[1].inputs)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    digits.pictures.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"scikit-learn, .*pip install 'attnzoo\[digits\]'"):
        Digits().batch("train", 0, 0, 1, 64)


def test_data_has_a_digest_and_what_is_made_up_has_none():
    assert len({len(chosen.digest) for chosen in (Text(), Needle(), Modules(), Digits())} | {64}) == 1
    assert all(chosen.digest == "" for chosen in (SHORT, MQAR(), Copy(), SelectiveCopy(), Induction()))


# Scores


def test_scores_count_what_has_weight():
    made = task.Examples(*np.array([[[0, 0, 0]] * 2, [[1, 2, 3], [4, 5, 6]], [[0, 1, 1], [0, 1, 1]]]))
    said = np.array([[0, 2, 3], [4, 5, 0]])
    assert task.accuracy(made, said) == 0.75 and task.exact_match(made, said) == 0.5


def test_always_the_commonest_answer():
    constant = task.answers_at_end(np.zeros(4, int), np.array([3]))

    @dataclasses.dataclass(frozen=True)
    class Biased(task.Task):
        vocabulary, chance = 8, 0.25

        def example(self, split, seed, index, length):
            return constant._replace(targets=constant.targets * (1 + (index % 4 == 0)))

    assert Biased().majority(4, count=64) == 0.75
    assert abs(MQAR().majority(64, count=64)) < 0.05 and abs(Modules().majority(16) - 0.1) < 0.06


# Text to tasks, and what is refused


def test_tasks_are_written_as_calls():
    assert tasks.parse_tasks("mqar(pairs=4), needle(depth=0.5)") == [MQAR(pairs=4), Needle(depth=0.5)]
    every = tasks.parse_tasks("all")
    assert [tasks.name_of(chosen) for chosen in every] == list(tasks.TASKS)
    for chosen in [*every, *map(one_case, CASES)]:
        assert tasks.parse_tasks(tasks.spelled(chosen), imports=False) == [chosen]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("listop", "unknown task 'listop', did you mean 'listops'"),
        ("mqar(pair=3)", "MQAR has no field 'pair', did you mean 'pairs'"),
        ("mqar(pairs=0)", "pairs must be an integer >= 1"),
        ("mqar(vocabulary=100000000000000)", "vocabulary must be an integer >= 1 and <= 2147483647"),
        ("corpus(folder=5)", "folder must be text, in quotes"),
        ("corpus(suffix=5)", "suffix must be text, in quotes"),
        ("imdb(folder='')", "folder must be text, in quotes"),
        ("image(folder=3)", "folder must be text, in quotes"),
        ("retrieval(folder=None)", "folder must be text, in quotes"),
        ("mqar(pairs=8, vocabulary=17)", "vocabulary must be an even integer >= 2 [*] pairs [+] 2 = 18"),
        ("listops(max_arguments=1)", "max_arguments must be an integer >= 2"),
        ("listops(branching=0)", "branching must be a number > 0 and <= 1"),
        ("listops(min_length=-1)", "min_length must be an integer >= 1"),
        ("needle(depth=2)", "depth must be a number from 0 to 1, or None"),
        ("copy(symbols=0.5)", "symbols must be an integer >= 1"),
        ("packed_copy(shortest=9, longest=8)", "longest must be an integer >= 9"),
        ("mixed_mqar(tested=((64,),))", "tested must be tuples of 2 integers >= 1, such as [(]64, 4[)]"),
        ("mixed_mqar(vocabulary=20)", "vocabulary must be an even integer >= 2 [*] pairs [+] 2 = 34"),
        ("flip_flop(ignored=1)", "ignored must be a number >= 0 and < 1"),
        ("phonebook(examples=3)", "examples must be 0, 1 or 2"),
        ("parity(trained=0)", "trained must be an integer >= 1"),
        ("cycle_navigation(size=1)", "size must be an integer >= 2"),
        ("bracketed_arithmetic(has_products=1)", "has_products must be True or False"),
        ("word_problem(group='Q8')", "group='Q8': expected S, A or Z and a number, such as S5, or a product"),
        ("word_problem(group='S7')", "permutations of at most 6 points"),
        ("word_problem(group='A5xA5')", "at most 720 elements"),
        ("word_problem(group='A5', moved=2)", "A5 has no such element but the identity"),
        ("word_problem(group='Z60', moved=2)", "expected None, or a group S_n or A_n"),
        ("mad_recall(noise=0.2)", "expected noise_symbols >= 1"),
        ("mad_recall(vocabulary=1)", "vocabulary must be an integer >= 2"),
        ("mad_fuzzy_recall(vocabulary=6)", "vocabulary must be an integer >= 7"),
        ("epochs(task='mqar, copy')", "expected one task, such as 'listops'"),
        ("epochs(task='os.system')", "is not in the catalogue, and nothing is imported"),
        ("shuffled(task='copy')", "expected a task with one answer to a whole example"),
        ("denoised(hidden=1)", "hidden must be a number >= 0 and < 1"),
        ("two_sided(task='listops')", "expected a task of causal models, such as 'mqar'"),
        ("two_sided(task='masked_text')", "expected a task of causal models"),
        ("two_sided(task='mad_compression')", "expected a task of causal models"),
    ],
)
def test_fields_that_are_wrong_are_refused(written, message):
    with pytest.raises(ValueError, match=message):
        tasks.parse_tasks(written)


@pytest.mark.parametrize(
    ("chosen", "length", "message"),
    [
        (
            ListOps(),
            128,
            "room for its longest expression; or give it max_length=129 and a min_length below 128",
        ),
        (ListOps(min_length=9), 128, "or give it max_length=129, or None"),
        (
            ListOps(min_length=90, max_length=91),
            128,
            "of 91 to 90 tokens, and there are none; give it a min_length below 90",
        ),
        (ListOps(max_depth=1), 2000, "trees of 501 to 1999 tokens, and in 100,000 there was none"),
        (MQAR(pairs=8), 30, "expects an even length, at least 4 [*] pairs = 32"),
        (MQAR(pairs=1), 7, "an even length"),
        (Copy(), 1, "at least 2"),
        (SelectiveCopy(), 31, "at least 2 [*] count = 32"),
        (Induction(), 2, "at least 3"),
        (Needle(), 43, "at least 44"),
        (Modules(), 2049, "at most its segment=2048"),
        (Modules(segment=50_000), 16, "into 1 segments: expected 10 or more"),
        (Digits(), 128, "expects 64, the pixels of a picture"),
        (MixedMQAR(), 96, "one of those that are tested, 64, 128, 256, 512, 1024"),
        (PackedCopy(), 3, "at least 4"),
        (Phonebook(), 100, "at least 1.., so that what is told again is in the book"),
        (FlipFlop(), 8, "an odd length, at least 3"),
        (Parity(), 1, "at least 2, the shortest word"),
        (MADRecall(), 128, "an odd length, at least 3"),
        (MADFuzzyRecall(), 10, "at least 11"),
        (MADSelectiveCopy(), 32, "at least 2 [*] count [+] 1 = 33"),
        (MADMemorization(), 7, "an even length"),
        (TwoSided("text"), 40, "its answers are its next inputs, which are seen here; expected a task whose inputs do"),
        (TwoSided("packed_copy(shortest=2, longest=5)"), 30, "its answers are its next inputs"),
        (Text(), 10**9, "a window of .* bytes: the files of the test split have .*, expected more"),
    ],
)
def test_lengths_that_a_task_cannot_have_are_refused(chosen, length, message):
    with pytest.raises(ValueError, match=message):
        chosen.batch("test", 0, 0, 1, length)


def test_parts_of_a_task_that_is_seen_whole_are_seen_whole():
    parts = TwoSided("needle").probes()
    assert list(parts) == list(Needle().probes()) and not any(part.is_causal for part in parts.values())
    assert parts["0.5"].inner == Needle(depth=0.5)


def test_a_length_that_is_too_short_for_training_is_refused():
    for chosen, length in ((MixedMQAR(), 128), (PackedCopy(), 100)):
        with pytest.raises(ValueError, match=r"expects at least (256|102), the longest"):
            chosen.batch("train", 0, 0, 1, length)


def test_a_split_to_which_nothing_belongs_is_told():
    owner = task.split_of(np.ones(4, "<i4").tobytes())  # of the only string that there is
    other = next(split for split in task.SPLITS if split != owner)
    assert len(Copy(symbols=1).batch(owner, 0, 0, 3, 8).inputs) == 3
    with pytest.raises(ValueError, match=f"nothing of the {other} split in 10,000 tries: too few different examples"):
        Copy(symbols=1).batch(other, 0, 0, 3, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"split": "dev"}, "split='dev': expected one of train, validation, test"),
        ({"seed": -1}, "seed=-1: expected an integer >= 0"),
        ({"start": 0.5}, "start=0.5: expected an integer >= 0"),
        ({"count": 0}, "count=0: expected an integer >= 1"),
        ({"length": 0}, "length=0: expected an integer >= 1"),
    ],
)
def test_batches_that_are_none_are_refused(given, message):
    chosen = {"split": "train", "seed": 0, "start": 0, "count": 1, "length": 8} | given
    with pytest.raises(ValueError, match=message):
        Copy().batch(**chosen)
