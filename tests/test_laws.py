"""Every law over every kernel."""

import pytest

from attnzoo.testing import LAWS, check_kernel, check_law
from attnzoo.testing.zoo import FURTHER, ZOO

# What is differentiated by jax alone, and not by a rule of ours, is held to the laws of such rules if slow, and what is
# cut nowhere to that of long sequences.
IF_SLOW = {
    "small_gradients_survive": ("Linear", "Performer", "Linformer", "Nystrom", "Sinkhorn"),
    "gradients_of_gradients": ("Linear", "Performer", "Linformer", "Nystrom", "Sinkhorn"),
    "long_sequences_work": ("Linformer", "Nystrom", "Sinkhorn"),
}
# What an engine does for all kernels on it is asked of one of them, softmax or FAVOR+, and of these if slow.
ON_ENGINES = ("Additive", "Synthesizer", "SparseTransformer", "Linear")
WITH_LAYOUTS = ("SlidingWindow", "BigBird", "Local")  # of their own, which a long sequence shows
OF_ENGINES = (
    "low_precision_loses_little",
    "transformations_change_nothing",
    "batch_mates_cannot_touch_each_other",
    "empty_axes_and_single_tokens_work",
    "long_sequences_work",
    "biases_add_to_scores",
    "dropout_acts_on_weights",
    "segments_come_in_any_order",
    "operands_of_any_size",
    "small_gradients_survive",
    "gradients_of_gradients",
    "steps_in_low_precision_lose_little",
    "forward_mode_equals_the_equation",
)


def is_quick(name, kernel):
    kind = type(kernel).__name__
    is_engines = name in OF_ENGINES and (kind in ON_ENGINES or (kind in WITH_LAYOUTS and name != "long_sequences_work"))
    return kind not in IF_SLOW.get(name, ()) and not is_engines


@pytest.mark.parametrize(
    "kernel, name",
    [pytest.param(x, name, marks=[pytest.mark.slow] * (not is_quick(name, x))) for x in ZOO for name in LAWS],
    ids=str,
)
def test_law(name, kernel):
    check_law(kernel, name)


DIFFER = (
    "batched_equals_head",
    "padding_changes_nothing",
    "the_future_cannot_touch_the_past",
    "stepping_equals_the_whole",
    "calls_at_an_offset_equal_the_whole",
    "a_state_has_an_end",
)


@pytest.mark.parametrize("kernel", FURTHER, ids=repr)
@pytest.mark.parametrize(
    "name", [name if name in DIFFER else pytest.param(name, marks=pytest.mark.slow) for name in LAWS]
)
def test_law_of_another_form(name, kernel):
    check_law(kernel, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("kernel", ZOO, ids=repr)
def test_law_by_reference(name, kernel):
    """The other implementation obeys them as well."""
    check_law(kernel, name, "reference")


def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match="no law is called 'gravity'"):
        check_kernel(ZOO[0], laws=("gravity",))
