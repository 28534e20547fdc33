"""The matrix of faults and laws: each broken kernel fails the laws that it breaks, and passes all others."""

import pytest

from attnzoo.testing import LAWS, LawBroken, check_law
from tests import broken_kernels as broken
from tests.mutants import MUTANTS, ROOT

ROUTES_DIFFER = {"batched_equals_head", "long_sequences_work"}
STEPS_DIFFER = {"stepping_equals_the_whole", "steps_in_low_precision_lose_little"}

# What each fault breaks. Where it is more than one law, the reason stands beside it.
FAULTS = {
    broken.Plain(): set(),
    # Later values reach every output, so neighbours in a pack and masked weights feel it, and so does padding.
    broken.FutureLeak(): {
        "the_future_cannot_touch_the_past",
        "hidden_keys_count_for_nothing",
        "packed_neighbours_cannot_touch_each_other",
        "masks_hide",
        "additive_masks_hide",
        "padding_changes_nothing",
        "biases_add_to_scores",
        "dropout_acts_on_weights",
    },
    # Masked weights are where a bias and dropout are looked at, and queries that are blind by a mask alone see all.
    broken.SeesEverything(): {
        "the_future_cannot_touch_the_past",
        "hidden_keys_count_for_nothing",
        "packed_neighbours_cannot_touch_each_other",
        "masks_hide",
        "additive_masks_hide",
        "padding_changes_nothing",
        "blind_queries_give_nothing",
    },
    # What is read though it is hidden counts, too, beside what is not there.
    broken.ReadsOtherDocuments(): {"packed_neighbours_cannot_touch_each_other", "hidden_keys_count_for_nothing"},
    broken.FarFutureLeak(): {"the_future_cannot_touch_the_past"},
    broken.CountsHiddenKeys(): {"hidden_keys_count_for_nothing"},
    broken.Nothing(): {"every_operand_counts"},
    broken.IgnoredKeyMask(): {"padding_changes_nothing", "hidden_keys_count_for_nothing"},
    # The factor that mixes examples is not in `head`, and depends on padding and on later keys.
    broken.BatchMatesMixed(): {
        "batch_mates_cannot_touch_each_other",
        "the_future_cannot_touch_the_past",
        "packed_neighbours_cannot_touch_each_other",
    },
    # NaN is not equal to itself, so whatever has blind rows (an offset, all masks at once) is found, too.
    broken.BlindNaN(): {
        "blind_queries_give_nothing",
        "batched_equals_head",
        "long_sequences_work",
        "the_future_cannot_touch_the_past",
    },
    broken.Retracing(): {"equal_kernels_never_retrace"},
    # It is wrong in every direction, whatever is asked for it.
    broken.WrongGradient(): {
        "forward_mode_equals_the_equation",
        "gradients_of_gradients",
        "segments_come_in_any_order",
        "small_gradients_survive",
        *ROUTES_DIFFER,
    },
    # `head` has the right order, so the two routes differ, at any length, with or without masks.
    broken.HeadsOutOfOrder(): {
        "shared_key_heads_equal_repeated_ones",
        "batched_equals_head",
        "any_length_works",
        "forward_mode_equals_the_equation",
        "keys_of_another_length",
        "low_precision_loses_little",
        "dropout_acts_on_weights",
    },
    # Its tiles hold every key, so what they hide is an intermediate, too; and it counts queries from the first key.
    broken.DenseInDisguise(): {
        "work_grows_as_claimed",
        "memory_grows_as_claimed",
        "calls_at_an_offset_equal_the_whole",
    },
    broken.ClaimsTooMuch(): {"biases_add_to_scores", "additive_masks_hide", "residual_is_the_log_of_the_sum"},
    # What it makes of a bias of -inf hides nothing.
    broken.CapsBias(): {"soft_caps_bound_scores", "additive_masks_hide"},
    # All supported arguments at once include the segments.
    broken.RefusesTooMuch(): {
        "hidden_keys_count_for_nothing",
        "forward_mode_equals_the_equation",
        "segments_come_in_any_order",
        "packed_neighbours_cannot_touch_each_other",
        "blind_queries_give_nothing",
        *ROUTES_DIFFER,
    },
    broken.PaddingShiftsLandmarks(landmarks=5): {"padding_changes_nothing"},
    broken.DropoutOnOutput(): {"dropout_acts_on_weights"},
    broken.OtherDropoutBackward(): {
        "forward_mode_equals_the_equation",
        "gradients_of_gradients",
        *ROUTES_DIFFER,
    },
    broken.WrongCausalGradient(): {"gradients_of_gradients", *ROUTES_DIFFER},
    broken.RoundsFloat16(): {"low_precision_loses_little", "small_gradients_survive"},
    broken.NarrowValuesFail(): {"shape_and_dtype_are_kept"},
    broken.ForgetsOffset(): {
        "calls_at_an_offset_equal_the_whole",
        "forward_mode_equals_the_equation",
        *ROUTES_DIFFER,
    },
    broken.ForgetsLaterTiles(): {"long_sequences_work"},
    broken.Stepping(): set(),
    broken.NeverAdvances(): STEPS_DIFFER,
    broken.RingTooSmall(left=5, right=0): STEPS_DIFFER,
    broken.ForgetsTheStep(): STEPS_DIFFER,
    broken.ClaimsToStep(): STEPS_DIFFER,
    broken.WrongPowers(): {"powers_are_those_of_features"},
    # In low precision all examples have as many tokens; past the end its sums take what the door has made zero.
    broken.PaddingIsSummed(): {"stepping_equals_the_whole", "a_state_has_an_end"},
}


@pytest.mark.every_kernel
@pytest.mark.parametrize(
    ("kernel", "name"),
    [(kernel, min(names - {"long_sequences_work"} or names)) for kernel, names in FAULTS.items() if names],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_fault_fails_a_law_of_its_own(kernel, name):
    """The first by name of those that the matrix has."""
    with pytest.raises(LawBroken) as caught:
        check_law(kernel, name)
    assert caught.value.law == name


@pytest.mark.every_kernel
@pytest.mark.slow
@pytest.mark.parametrize("kernel", FAULTS, ids=lambda kernel: type(kernel).__name__)
def test_a_fault_fails_its_own_laws_and_passes_all_others(kernel):
    failed = {}
    for name in LAWS:
        try:
            check_law(kernel, name)
        except LawBroken as error:
            failed[name] = str(error)
    assert set(failed) == FAULTS[kernel], failed


def test_a_breach_names_law_shape_and_deviation():
    with pytest.raises(LawBroken, match=r"breaks the law `padding_changes_nothing`: .* shape \(1, 23, 2, 8\) deviates"):
        check_law(broken.IgnoredKeyMask(), "padding_changes_nothing")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.old}")
def test_mutants_are_of_the_code_as_it_is(mutant):
    assert mutant.old in (ROOT / "attnzoo" / mutant.file).read_text()
