"""The laws that every kernel obeys, as a function that anyone can run on a kernel of his own.

    check_kernel(MyKernel())

raises `LawBroken` with the law, the shapes and the largest deviation, or returns. What a kernel does not support is
checked as a refusal instead: nothing is skipped, and nothing is known of a kernel but its interface.
"""

from __future__ import annotations

from collections.abc import Callable

from attnzoo.kernel import Kernel
from attnzoo.testing import extremes, growth, laws, rules, stepping
from attnzoo.testing.probing import probe_kernel as probe_kernel
from attnzoo.testing.subject import LawBroken as LawBroken
from attnzoo.testing.subject import Subject

LAWS: dict[str, Callable[[Subject], None]] = {
    law.__name__: law
    for law in (
        laws.shape_and_dtype_are_kept,
        laws.low_precision_loses_little,
        laws.vendors_are_right_or_decline,
        laws.transformations_change_nothing,
        laws.forward_mode_equals_the_equation,
        laws.every_operand_counts,
        laws.batched_equals_head,
        laws.equal_kernels_never_retrace,
        laws.the_future_cannot_touch_the_past,
        laws.hidden_keys_touch_nothing,
        laws.hidden_keys_count_for_nothing,
        laws.padding_changes_nothing,
        laws.batch_mates_cannot_touch_each_other,
        laws.packed_neighbours_cannot_touch_each_other,
        laws.blind_queries_give_nothing,
        laws.empty_axes_and_single_tokens_work,
        laws.any_length_works,
        laws.long_sequences_work,
        laws.keys_of_another_length,
        laws.shared_key_heads_equal_repeated_ones,
        laws.masks_hide,
        laws.biases_add_to_scores,
        laws.functions_stand_for_arrays,
        laws.scale_scales,
        laws.soft_caps_bound_scores,
        laws.sinks_join_the_sum,
        laws.global_tokens_see_and_are_seen,
        laws.residual_is_the_log_of_the_sum,
        laws.dropout_acts_on_weights,
        extremes.additive_masks_hide,
        extremes.segments_come_in_any_order,
        extremes.operands_of_any_size,
        extremes.small_gradients_survive,
        extremes.gradients_of_gradients,
        stepping.stepping_equals_the_whole,
        stepping.calls_at_an_offset_equal_the_whole,
        stepping.steps_in_low_precision_lose_little,
        stepping.a_state_has_an_end,
        rules.powers_are_those_of_features,
        growth.work_grows_as_claimed,
        growth.memory_grows_as_claimed,
    )
}


def check_kernel(kernel: Kernel, laws: tuple[str, ...] | None = None, implementation: str | None = None) -> None:
    """Hold `kernel` to all laws, or to those named.

    Args:
      kernel: what is held to them.
      laws: names of laws, None for all.
      implementation: of `attend`, in all calls but those that compare two. How work and memory grow is claimed for
        `batched`, and so asked of no other.

    Raises:
      LawBroken: for the first law that it breaks.
      ValueError: there is no law of a given name.

    Example:
      >>> from attnzoo.testing import check_kernel
      >>> check_kernel(Linear(), laws=("masks_hide", "scale_scales"))  # which it refuses, as it says
    """
    for name in LAWS if laws is None else laws:
        if name not in LAWS:
            raise ValueError(f"no law is called {name!r}: expected one of {', '.join(LAWS)}")
        check_law(kernel, name, implementation)


def check_law(kernel: Kernel, name: str, implementation: str | None = None) -> None:
    """Hold `kernel` to one law; whatever it raises there is a breach too.

    Args:
      kernel: what is held to it.
      name: of the law, one of `LAWS`.
      implementation: of `attend`, as in `check_kernel`.

    Raises:
      LawBroken: it is broken.

    Example:
      >>> from attnzoo.testing import check_law
      >>> import dataclasses
      >>> @dataclasses.dataclass(frozen=True)
      ... class Average(Kernel):
      ...     supports = Support(causal=True)
      ...
      ...     def head(self, params, draws, q, k, v, visible):
      ...         return jnp.broadcast_to(v.mean(axis=0), (len(q), v.shape[1]))
      >>> check_law(Average(), "every_operand_counts")
      Traceback (most recent call last):
      attnzoo.testing.subject.LawBroken: Average() breaks the law `every_operand_counts`: the output does not move ...
    """
    try:
        LAWS[name](Subject(name, kernel, implementation))
    except LawBroken:
        raise
    except Exception as error:
        raise LawBroken(name, kernel, f"{type(error).__name__}: {error}") from error
