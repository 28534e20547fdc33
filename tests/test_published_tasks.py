"""Published tasks: each answer is right by a solver that is written here, from the definition and no generator."""

import collections
import itertools

import numpy as np
import pytest

from experiments import tasks
from experiments.tasks import flipflop, mqar, phonebook, words
from experiments.tasks.copying import PackedCopy
from experiments.tasks.flipflop import FlipFlop
from experiments.tasks.formal import BracketedArithmetic, CycleNavigation, ModularArithmetic, Parity
from experiments.tasks.listops import ListOps
from experiments.tasks.mad import MADCompression, MADFuzzyRecall, MADMemorization, MADRecall, MADSelectiveCopy
from experiments.tasks.mqar import MQAR, MixedMQAR
from experiments.tasks.phonebook import Phonebook
from experiments.tasks.words import WordProblem
from experiments.tasks.wrapped import Denoised, Epochs, Shuffled


def rows(chosen, length, count=40, split="test"):
    """Each example as lists: inputs, answers by place, and which places count."""
    batch = chosen.batch(split, 3, 0, count, length)
    for inputs, targets, weights in zip(batch.inputs, batch.targets, batch.weights, strict=True):
        places = np.flatnonzero(weights).tolist()
        yield inputs.tolist(), {place: int(targets[place]) for place in places}


# Formal languages


def read_word(inputs, answers, padding):
    [(place, answer)] = answers.items()
    assert set(inputs[place + 1 :]) <= {padding} and padding not in inputs[: place + 1]
    return inputs[: place + 1], answer


@pytest.mark.parametrize("length", [39, 256])
def test_parity_is_that_of_the_sum(length):
    sizes = []
    for inputs, answers in rows(Parity(), length, 200):
        word, answer = read_word(inputs, answers, 2)
        assert set(word) <= {0, 1} and answer == sum(word) % 2
        sizes.append(len(word))
    assert min(sizes) >= (2 if length == 39 else 39) and max(sizes) <= length
    assert len(set(sizes)) > 30


def test_steps_end_where_walking_them_ends():
    ring = collections.deque(range(5))
    for inputs, answers in rows(CycleNavigation(), 39):
        word, answer = read_word(inputs, answers, 8)
        walk = ring.copy()
        for step in word:
            walk.rotate({5: 0, 6: -1, 7: 1}[step])
        assert walk[0] == answer


@pytest.mark.parametrize(
    "chosen",
    [ModularArithmetic(), ModularArithmetic(modulus=7), BracketedArithmetic(), BracketedArithmetic(has_products=True)],
    ids=tasks.spelled,
)
@pytest.mark.parametrize("length", [39, 120])
def test_expressions_are_worth_what_python_says(chosen, length):
    signs = {chosen.modulus + place: sign for place, sign in enumerate(chosen.symbols)}
    seen = set()
    for inputs, answers in rows(chosen, length, 60):
        word, answer = read_word(inputs, answers, chosen.vocabulary - 1)
        written = "".join(signs.get(token, str(token)) for token in word)
        assert written.endswith("=") and eval(written[:-1]) % chosen.modulus == answer  # digits, brackets, operators
        seen |= set(written)
    wanted = (
        {"(", ")", "+", "-"} | ({"*"} if chosen.has_products else set()) if hasattr(chosen, "has_products") else {"*"}
    )
    assert wanted <= seen


# Words of groups


def matrices(group):
    """Each element as a permutation matrix; Z_n as rotations of n points, a product as one block beside another."""
    blocks = []
    for part in group.split("x"):
        count = int(part[1:])
        points = [tuple((np.arange(count) + k) % count) for k in range(count)]
        if part[0] != "Z":
            points = sorted(itertools.permutations(range(count)))
        found = [np.eye(count)[:, list(each)] for each in points]
        blocks.append([each for each in found if part[0] != "A" or np.linalg.det(each) > 0])
    whole = blocks[0]
    for others in blocks[1:]:
        whole = [
            np.block([[a, np.zeros((len(a), len(b)))], [np.zeros((len(b), len(a))), b]]) for a in whole for b in others
        ]
    return [each.astype(int) for each in whole]


@pytest.mark.parametrize(("group", "order"), [("S5", 120), ("A5", 60), ("A4xZ5", 60), ("Z60", 60), ("S3", 6)])
def test_products_are_those_of_permutation_matrices(group, order):
    every = matrices(group)
    number = {each.tobytes(): place for place, each in enumerate(every)}
    assert len(number) == order == WordProblem(group).vocabulary
    for inputs, answers in rows(WordProblem(group), 12, 8):
        product = np.eye(len(every[0]), dtype=int)
        for place, element in enumerate(inputs):
            product = product @ every[element]
            assert answers[place] == number[product.tobytes()]


@pytest.mark.parametrize(("moved", "count"), [(2, 11), (3, 31), (None, 120)])
def test_elements_move_as_few_points_as_is_said(moved, count):
    chosen = WordProblem("S5", moved)
    traces = np.array([np.trace(each) for each in matrices("S5")])
    assert len(chosen.elements()) == count and (5 - traces[chosen.elements()]).max() <= (moved or 5)
    assert set(np.unique(chosen.batch("train", 0, 0, 60, 32).inputs)) == set(chosen.elements())
    np.testing.assert_array_equal(words.table("S5")[0], np.arange(120))


# Recall


def test_what_is_read_is_what_was_written_last():
    for ignored in flipflop.TESTED:
        shares = collections.Counter()
        for inputs, answers in rows(FlipFlop(ignored), 511, 20):
            assert inputs[0] == flipflop.WRITE and inputs[-1] == flipflop.READ
            bit = None
            for place in range(0, 511, 2):
                shares[inputs[place]] += 1
                if inputs[place] == flipflop.READ:
                    assert answers.pop(place) == bit and inputs[place + 1 : place + 2] in ([], [bit])
                elif inputs[place] == flipflop.WRITE:
                    bit = inputs[place + 1]
            assert not answers
        assert abs(shares[flipflop.IGNORE] / shares.total() - ignored) < 0.03
    learned = FlipFlop().batch("train", 0, 0, 2, 31)
    assert learned.weights.all() and (learned.targets[:, :-1] == learned.inputs[:, 1:]).all()


@pytest.mark.parametrize("examples", [0, 2])
def test_the_number_is_in_the_book(examples):
    for inputs, answers in rows(Phonebook(examples), 500):
        text = bytes(inputs).decode()
        *book, question = text.strip().split("\n\n")
        entries = dict(line.split(": ") for line in book[0].split("\n"))
        name, given = question.split(": ")
        number = "".join(chr(answers[place]) for place in sorted(answers))
        assert entries[name] == number == given + number[-1] and sorted(answers) == list(range(490, 500))
        assert len(entries) == len(book[0].split("\n")) and all(row[0] in "6789" for row in entries.values())
        again = book[1].split("\n") if examples else []
        assert len(again) == examples and set(again) <= set(book[0].split("\n")) and name not in str(again)
        assert len(text) - len(text.lstrip("\n")) < 4 * phonebook.LONGEST


def test_mixed_examples_are_of_published_settings():
    chosen, found = MixedMQAR(is_noisy=False), collections.Counter()
    for inputs, answers in rows(chosen, 256, 300, "train"):
        pairs = len(answers)
        bound = dict(zip(inputs[0 : 2 * pairs : 2], inputs[1 : 2 * pairs : 2], strict=True))
        assert len(bound) == pairs and {inputs[place]: answer for place, answer in answers.items()} == bound
        tokens = next(tokens for tokens, count, _ in mqar.TRAINED if count == pairs)
        assert max(answers) < tokens and not any(inputs[tokens:])
        found[pairs] += 1
    assert abs(found[4] / 300 - 5 / 9) < 0.12 and set(found) == {4, 8, 16, 32, 64}
    for length in (64, 1024):
        tested = {len(answers) for _, answers in rows(chosen, length, 20)}
        assert tested == {pairs for tokens, pairs in mqar.TESTED if tokens == length}


def test_strings_are_packed_until_the_context_is_full():
    chosen, (first, again, last) = PackedCopy(shortest=3, longest=6), (27, 28, 29)
    batch = chosen.batch("train", 0, 0, 40, 60)
    for inputs, targets, weights in zip(*batch[:3], strict=True):
        tokens, place, counted = [*inputs.tolist(), int(targets[-1])], 0, []
        np.testing.assert_array_equal(targets, tokens[1:])
        while last in tokens[place:]:
            end = tokens.index(last, place)
            sign, *both = tokens[place:end]
            half = both.index(again)
            assert sign == first and 3 <= half <= 6 and both[:half] == both[half + 1 :]
            counted += range(place + half + 2, end + 1)
            place = end + 1
        assert place + 2 * 6 + 3 > 61  # what is left has no room for the longest
        assert (np.flatnonzero(weights) + 1).tolist() == counted
    for inputs, answers in rows(chosen, 62, 10):
        assert inputs[0] == first and inputs[31] == again and len(answers) == 31 and answers[61] == last
        assert [answers[place] for place in range(31, 61)] == inputs[1:31]


# MAD


@pytest.mark.parametrize("chosen", [MADRecall(), MADRecall(32, 0.2, 16), MADRecall(32, 0.8, 16)], ids=tasks.spelled)
def test_keys_that_come_again_have_the_values_they_had(chosen):
    symbols, share = chosen.vocabulary - chosen.noise_symbols, []
    for inputs, answers in rows(chosen, 127):
        known, wanted = {}, {}
        for place in range(0, 127, 2):
            key = inputs[place]
            if key in known:
                wanted[place] = known[key]
            if key < symbols:
                assert key < symbols // 2
                known[key] = known.get(key) or inputs[place + 1]
                assert place == 126 or symbols // 2 <= inputs[place + 1] == known[key] < symbols
            share.append(key >= symbols)
        assert wanted == answers and 126 in answers
    assert abs(np.mean(share) - chosen.noise) < 0.05


def test_fuzzy_keys_have_the_values_they_had():
    chosen = MADFuzzyRecall()
    for split, longest in (("test", {3}), ("train", {1, 2, 3})):
        sizes, at_end = set(), 0
        batch = chosen.batch(split, 0, 0, 40, 128)
        for inputs, targets, weights in zip(*batch[:3], strict=True):
            whole = [*inputs.tolist(), int(targets[-1])]
            runs = [
                list(run) for _, run in itertools.groupby(enumerate(whole), lambda each: (each[1] > 6) + (each[1] > 14))
            ]
            runs = runs[1:] if runs[0][0][1] == 15 else runs
            known, wanted = {}, []
            for key_run, value_run in zip(runs[::2], runs[1::2], strict=True):
                key, value = (tuple(token for _, token in run) for run in (key_run, value_run))
                wanted += [place - 1 for place, _ in value_run] if key in known else []
                assert known.setdefault(key, value) == value and len(value) <= 3
                assert len(set(key)) == len(key) and len(set(value)) == len(value)
                sizes.add(len(key))
            assert (split == "train" and weights.all()) or np.flatnonzero(weights).tolist() == wanted
            at_end += wanted[-1] == 127
        assert sizes == longest and at_end == 40


def test_symbols_are_what_is_no_blank_and_the_last_stands_before_the_sign():
    for inputs, answers in rows(MADSelectiveCopy(), 256):
        before, sign, after = inputs[:239], inputs[239], inputs[240:]
        assert sign == 15 and set(after) == {14} and before[-1] < 14
        assert [token for token in before if token != 14] == [answers[place] for place in range(240, 256)]


def test_one_table_answers_all_examples():
    table = {}
    for split in ("train", "test"):
        for inputs, answers in rows(MADMemorization(), 32, 100, split):
            for place, answer in answers.items():
                assert inputs[place] == 255 and table.setdefault(inputs[place - 1], answer) == answer
    assert len(table) == 127 and len(set(table.values())) == 127 and min(table.values()) >= 127 > max(table)


def test_what_is_to_be_kept_is_all_before_the_sign():
    for inputs, answers in rows(MADCompression(), 32):
        assert inputs[-1] == 15 and answers == dict(enumerate(inputs[:-1])) and max(inputs[:-1]) < 15


# Tasks made of others


def test_a_pass_meets_each_training_example_once():
    chosen = Epochs("mqar(pairs=2, vocabulary=20)", 7)
    inner = MQAR(2, 20).batch("train", 1, 0, 7, 16)
    for start in (0, 7):
        own = chosen.batch("train", 1, start, 7, 16)
        assert sorted(map(bytes, own.inputs)) == sorted(map(bytes, inner.inputs))
    np.testing.assert_array_equal(
        chosen.batch("test", 1, 5, 9, 16).inputs, MQAR(2, 20).batch("test", 1, 5, 9, 16).inputs
    )


@pytest.mark.parametrize("block", [1, 4, 1000])
def test_blocks_change_places_and_keep_their_order(block):
    inner = ListOps(None, None)
    whole, own = (x.batch("train", 0, 0, 30, 40) for x in (inner, Shuffled(tasks.spelled(inner), block)))
    np.testing.assert_array_equal(whole.targets, own.targets)
    for before, after, tokens in zip(whole.inputs.tolist(), own.inputs.tolist(), whole.lengths, strict=True):
        blocks = collections.Counter(
            tuple(before[place : min(place + block, tokens)]) for place in range(0, tokens, block)
        )
        assert before[tokens:] == after[tokens:] and sorted(before) == sorted(after)
        place = 0
        while place < tokens:  # a block of the same tokens starts here, the short one or a whole one
            found = next(each for each in blocks if tuple(after[place : place + len(each)]) == each)
            blocks -= collections.Counter([found])
            place += len(found)
        assert not blocks
    assert (block == 1000) == bool((whole.inputs == own.inputs).all())


def test_what_is_hidden_is_to_be_restored():
    inner = ListOps(None, None)
    whole, own = (x.batch("test", 0, 0, 30, 40) for x in (inner, Denoised(tasks.spelled(inner), 0.5)))
    hidden = own.weights > 0
    np.testing.assert_array_equal(own.targets, whole.inputs)
    np.testing.assert_array_equal(own.inputs, np.where(hidden, inner.vocabulary, whole.inputs))
    np.testing.assert_array_equal(hidden.sum(axis=1), np.round(whole.lengths / 2))
    assert all(not row[tokens:].any() for row, tokens in zip(hidden, whole.lengths, strict=True))
    following = Denoised(tasks.spelled(inner), 0)
    assert following.is_causal and not Denoised("digits").is_causal and following.classes is None
    own = following.batch("test", 0, 0, 30, 40)
    counts = own.weights[:, :-1] > 0
    np.testing.assert_array_equal(own.targets[:, :-1][counts], whole.inputs[:, 1:][counts])
    np.testing.assert_array_equal(counts.sum(axis=1), whole.lengths - 1)


def test_a_pair_is_restored_one_document_after_the_other(tmp_path):
    for name in ("train", "eval", "test"):
        (tmp_path / f"new_aan_pairs.{name}.tsv").write_text("1\ta\tb\tfirst one\tsecond\n")
    task = f"retrieval(folder={str(tmp_path)!r})"
    own = Denoised(task, 0).batch("test", 0, 0, 2, 12)
    assert own.inputs.shape == (2, 12) and own.lengths.tolist() == [9, 6]
    assert bytes(own.inputs[0][:9].astype(np.uint8)) == b"first one"
    shuffled = Shuffled(task, 2).batch("test", 0, 0, 1, 12)
    assert shuffled.inputs.shape == (1, 2, 12) and sorted(shuffled.inputs[0, 1][:6]) == sorted(b"second")
