"""Every law over every kernel."""

import pytest

from attnzoo import BigBird, Forgetting, Local, Performer, Recurrent, SlidingWindow, Softmax, SparseTransformer
from attnzoo.testing import LAWS, check_kernel, check_law
from attnzoo.testing.zoo import FURTHER, ZOO
from tests.few import few

# What is asked of each kernel in `make test`, too: that its fast route is its equation, and sees what it may. Kernels
# that are a rule or a pattern on an engine are their equation where oracles say so. Other laws are about what the door
# or an engine does for all kernels.
OF_EACH = (
    "batched_equals_head",
    "the_future_cannot_touch_the_past",
    "hidden_keys_touch_nothing",
    "padding_changes_nothing",
    "packed_neighbours_cannot_touch_each_other",
)
# What an engine does for all its kernels: asked of exact attention for tiles, and of recurrences for states.
OF_ENGINES = (
    "work_grows_as_claimed",
    "segments_come_in_any_order",
    "shape_and_dtype_are_kept",
    "low_precision_loses_little",
    "empty_axes_and_single_tokens_work",
    "blind_queries_give_nothing",
    "keys_of_another_length",
    "shared_key_heads_equal_repeated_ones",
)
# What takes longest, and what is about scores, which an engine makes for all kernels: of exact attention alone there.
OF_ONE = (
    "long_sequences_work",
    "memory_grows_as_claimed",
    "gradients_of_gradients",
    "transformations_change_nothing",
    "forward_mode_equals_the_equation",
    "small_gradients_survive",
    "vendors_are_right_or_decline",
    "masks_hide",
    "additive_masks_hide",
    "biases_add_to_scores",
    "functions_stand_for_arrays",
    "scale_scales",
    "soft_caps_bound_scores",
    "sinks_join_the_sum",
    "residual_is_the_log_of_the_sum",
    "dropout_acts_on_weights",
)


def marks_of(kernel, name):
    """Whether the law is asked of a kernel in `make test`."""
    if (name in OF_ONE and kernel != Softmax()) or (name in OF_ENGINES and isinstance(kernel, SlidingWindow)):
        return [pytest.mark.slow]
    is_rule = isinstance(kernel, (Recurrent, Forgetting)) and not isinstance(kernel, Performer)
    is_pattern = isinstance(kernel, (BigBird, Local, SparseTransformer)) and name == "batched_equals_head"
    return [pytest.mark.every_kernel] * (name in OF_EACH and not is_rule and not is_pattern)


@pytest.mark.parametrize(
    "kernel, name", [pytest.param(x, name, marks=marks_of(x, name)) for x in ZOO for name in LAWS], ids=str
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
@pytest.mark.parametrize("name", few(LAWS, DIFFER))
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
