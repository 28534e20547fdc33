"""Break each kernel once, in a copy, and see that a test turns red: `python -m tests.mutants`.

With an argument, only in files whose path has it: `python -m tests.mutants engines/recurrence`.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
DILATED = "SlidingWindow(left=2, right=2, dilation=3, global_tokens=2)"
BIGBIRD = "BigBird(block_size=4, num_random=2, num_window=3, num_global=1, seed=0)"
LINEAR = "Linear(feature_map='elu+1', epsilon=1e-06)"
STRIDED = "Local(block_size=5, layout='strided')"
REFORMER = "Reformer(chunk_size=4, buckets=4, rounds=2, seed=0)"
SINKHORN = "Sinkhorn(block_size=4, iterations=3, temperature=0.75)"
SPARSE = "SparseTransformer(block_size=6, summary=2)"
PERFORMER = "Performer(features=16, orthogonal=True, seed=0)"
KIMI = "KimiDelta(max_beta=1)"
IN_CHUNKS = f"tests/test_recurrence.py::test_outputs_and_gradients[((21, 40), True, 3, False, False)-{LINEAR}]"
PACKED = f"tests/test_recurrence.py::test_outputs_and_gradients[((37, 37), True, 0, True, True)-{LINEAR}]"

AT_ONCE = "tests/test_at_once.py::test_outputs_and_gradients[{}-{}]"
MESHES = "tests/test_meshes.py::"


class Mutant(NamedTuple):
    """One replacement in one file, and the test that should notice."""

    file: str
    old: str
    new: str
    test: str


def law(name: str, kernel: str) -> str:
    return f"tests/test_laws.py::test_law[{kernel}-{name}]"


def oracle(kernel: str) -> str:
    return f"tests/test_oracles.py::test_values[{kernel}-plain]"


def split(kernel: str, asked: str) -> str:
    return f"{MESHES}test_split_sequences_change_nothing[{kernel}-'{asked}']"


MUTANTS = [
    Mutant("engines/streaming.py", "a.total * first +", "a.total +", law("long_sequences_work", "Softmax()")),
    Mutant("engines/streaming.py", "d_weights + shift[row]", "d_weights - shift[row]", law("batched_equals_head", "Softmax()")),
    Mutant("contract/mask.py", "visible &= j <= i\n", "visible &= j <= i + 1\n", law("the_future_cannot_touch_the_past", "Softmax()")),
    Mutant("door/attention.py", "silenced(shown_keys, value)", "value", law("hidden_keys_touch_nothing", "Softmax()")),
    Mutant("door/visibility.py", "return jnp.where(shown.reshape(*shown.shape, *(1,) * (x.ndim - 3)), x, 0)", "return x", "tests/test_tokens.py::test_garbage_in_hidden_tokens_touches_nothing[GatedSoftmax()]"),
    Mutant("engines/slots.py", "inside = row >= column", "inside = row > column", IN_CHUNKS),
    Mutant("engines/slots.py", "(is_query, at, segment, segment != segment[0])", "(is_query, at, segment)", "tests/test_states.py::test_a_state_that_is_left_is_found[Delta(max_beta=1)-in turn-True]"),
    Mutant("engines/slots.py", "lasts=slots.found == segment", "lasts=None", "tests/test_states.py::test_the_state_that_is_left_is_that_of_the_last_key"),
    Mutant("engines/slots.py", "ids[:-1, -1]", "ids[1:, 0]", PACKED),
    Mutant("engines/slots.py", "jnp.where(places == lead, beyond, 0)", "0", "tests/test_states.py::test_outputs_and_gradients[Retention()-((40, 13), 100, False, True)]"),
    Mutant("engines/recurrence.py", "Slots(positions, positions, positions >= 0,", "Slots(positions, positions, positions >= -1,", law("stepping_equals_the_whole", PERFORMER)),
    Mutant("engines/state.py", "peak, top = pairs.max(axis=1)", "peak, top = jnp.full(len(pairs), pairs.max())", "tests/test_recurrence.py::test_the_future_cannot_touch_the_past_across_chunks[0-Performer(features=8, orthogonal=True, seed=0)]"),
    Mutant("engines/state.py", "[early, early[-1:] * late]", "[early, late]", law("batched_equals_head", KIMI)),
    Mutant("engines/state.py", "[early_behind * late[-1:], late_behind]", "[early_behind, late_behind]", law("batched_equals_head", KIMI)),
    Mutant("engines/state.py", "where(self.standing.writes, _times(", "where(None, _times(", PACKED),
    Mutant("engines/heads.py", "jax.lax.cond(is_alone(), alone, at_once, *operands)", "alone(*operands)", f"{MESHES}test_devices_send_each_other_nothing[Softmax()-Auto]"),
    Mutant("engines/heads.py", "start = varying.as_of(jax.tree", "start = (lambda x, _: x)(jax.tree", f"{MESHES}test_a_shard_map_of_the_caller[Softmax()-loop]"),
    Mutant("door/meshes.py", "varying.alike(leaves, as_tuple(self.keys))", "leaves", f"{MESHES}test_a_shard_map_of_the_caller[Softmax()-at once]"),
    Mutant("models/generation.py", "(rng, rows)", "(rng, jnp.arange(len(rows)))", f"{MESHES}test_models_and_text"),
    Mutant("kernels/nadaraya_watson.py", "(-2 * self", "(-1 * self", oracle("NadarayaWatson(bandwidth=1.0)")),
    Mutant("kernels/additive.py", "@ query + jnp.expand_dims(bias, range(q.ndim - 1)),", "@ query,", oracle("Additive(units=None)")),
    Mutant("engines/schedule.py", "zip(seen, beside_all, strict=True)", "zip(seen, seen, strict=True)", law("any_length_works", DILATED)),
    Mutant("kernels/sliding_window.py", "_joined(_without(tokens, columns, 0), own)", "_joined(columns, own)", law("batched_equals_head", DILATED)),
    Mutant("kernels/sliding_window.py", "if mask.is_causal and tokens.which is None:", "if mask.is_causal:", law("global_tokens_see_and_are_seen", DILATED)),
    Mutant("kernels/sliding_window.py", "call.under(call.mask.within(self.band)), self", "call.under(call.mask.within(Band(9, 9))), self", law("any_length_works", DILATED)),
    Mutant("kernels/sliding_window.py", "visible &= self.band.beside(", "visible |= self.band.beside(", law("any_length_works", DILATED)),
    Mutant("kernels/bigbird.py", "jnp.where(block >= hole", "jnp.where(block > hole", law("batched_equals_head", BIGBIRD)),
    Mutant("kernels/bigbird.py", "jnp.where(is_global[:, None], -1, listed)", "listed", law("any_length_works", BIGBIRD)),
    Mutant("kernels/linformer.py", "projection[..., :length]", "projection[..., -length:]", "tests/test_approximations.py::test_linformer_uses_the_first_columns_of_a_shorter_input_and_refuses_a_longer_one"),
    Mutant("kernels/linformer.py", "few.of_head(q, key, value, scale, soft_cap)", "few.of_head(q, key, value, 1.0, soft_cap)", law("batched_equals_head", "Linformer(rank=5, share='none')")),
    Mutant("kernels/nystrom.py", "jnp.cumsum(shown) - 1", "jnp.arange(len(shown))", "tests/test_approximations.py::test_hidden_tokens_do_not_move_landmarks"),
    Mutant("engines/schedule.py", "xp.arange(block_size)[None] - place", "xp.arange(block_size)[None]", "tests/test_approximations.py::test_positions_count_from_the_offset[9-Local(block_size=4, layout='contiguous')]"),
    Mutant("kernels/local.py", "self._strided(len(k), mask.used_length(), 0)", "self._strided(len(k), len(k), 0)", "tests/test_laws.py::test_law_of_another_form[padding_changes_nothing-Local(block_size=5, layout='strided')]"),
    Mutant("kernels/local.py", "place * count + group", "group * self.block_size + place", oracle(STRIDED)),
    Mutant("engines/gathered.py", "(index >= 0).reshape", "(index >= -1).reshape", "tests/test_approximations.py::test_positions_count_from_the_offset[-9-Local(block_size=4, layout='strided')]"),
    Mutant("kernels/reformer.py", "jnp.where(shown, bucket, self.buckets)", "bucket", law("padding_changes_nothing", REFORMER)),
    Mutant("kernels/reformer.py", "1 / jnp.maximum(times, 1)", "1 + 0 * times", law("batched_equals_head", REFORMER)),
    Mutant("engines/hashed.py", "[turned, -turned]", "[turned, turned]", oracle(REFORMER)),
    Mutant("kernels/sinkhorn.py", "(count > 0) & (count > 0).T", "(count >= 0) & (count >= 0).T", law("padding_changes_nothing", SINKHORN)),
    Mutant("kernels/sinkhorn.py", "\"nl,nsh->lsh\"", "\"ln,nsh->lsh\"", oracle(SINKHORN)),
    Mutant("kernels/sinkhorn.py", "for axis in (1, 0)", "for axis in (0, 1)", oracle(SINKHORN)),
    Mutant("kernels/sparse_transformer.py", "mask.key_length, self.block_size)[:, apart]", "mask.key_length, self.block_size)", oracle(SPARSE)),
    Mutant("kernels/sparse_transformer.py", ">= self.block_size - self.summary", "> self.block_size - self.summary", oracle(SPARSE)),
    Mutant("engines/streaming.py", "base = dense.finite(top)", "base = top", law("blind_queries_give_nothing", SPARSE)),
    Mutant("engines/streaming.py", "jnp.exp(scores - dense.finite(top)[:, None])", "jnp.exp(scores - top[:, None])", law("additive_masks_hide", "Softmax()")),
    Mutant("engines/streaming.py", "- log_total[row][:, None]", "", law("batched_equals_head", "Softmax()")),
    Mutant("engines/streaming.py", "pairs if dtype == jnp.float16 else pairs.astype(dtype)", "pairs.astype(dtype)", law("small_gradients_survive", "Softmax()")),
    Mutant("engines/streaming.py", "jax.tree.map(heads.precise, _gather(tiles.scored, visited, row, blocks))", "_gather(tiles.scored, visited, row, blocks)", law("small_gradients_survive", BIGBIRD)),
    Mutant("kernels/performer.py", "_root(jnp.abs(scale))", "jnp.sqrt(jnp.abs(scale))", "tests/test_extremes.py::test_a_learned_scale_may_be_zero"),
    Mutant("kernels/synthesizer.py", "slice(len(k))", "slice(-len(k), None)", "tests/test_approximations.py::test_what_was_learned_for_a_length_serves_shorter_inputs_from_its_start[Synthesizer(form='dense', units=None, rank=32)]"),
    Mutant("kernels/synthesizer.py", "+ positions.query_offset)", "+ 1 + positions.query_offset)", "tests/test_approximations.py::test_positions_count_from_the_offset[9-Synthesizer(form='random', units=None, rank=3)]"),
    Mutant("positions/shaw.py", "key_positions[None, :] - query_positions[:, None]", "query_positions[:, None] - key_positions[None, :]", "tests/test_positions.py::test_rules_in_causal_cross_attention[shaw]"),
    Mutant("engines/streaming.py", "at[rows].add(new.projected)", "at[rows].set(new.projected)", "tests/test_positions.py::test_rules_of_many_tiles"),
    Mutant("door/meshes.py", "jnp.arange(size)) // times", "jnp.arange(size)) // 1", f"{MESHES}test_key_heads_that_devices_do_not_divide"),
    Mutant("layers/projected.py", "places = offset + jnp.expand_dims(rows", "places = 0 * offset + jnp.expand_dims(rows", "tests/test_layers.py::test_positions_in_both_layers"),
    Mutant("layers/cache.py", "index[..., None] + projected.along", "index.max() + projected.along", "tests/test_layer_decoding.py::test_positions_are_those_of_each_example"),
    Mutant("engines/caching.py", "positions.max() - self.ring", "positions.max() - self.ring + 1", law("stepping_equals_the_whole", DILATED)),
    Mutant("engines/caching.py", "(columns[None] <= positions[:, None])", "(columns[None] < positions[:, None])", law("stepping_equals_the_whole", "Softmax()")),
    Mutant("kernels/bigbird.py", "blocks * self.block_size + jnp.arange", "blocks * self.block_size + 1 + jnp.arange", law("stepping_equals_the_whole", BIGBIRD)),
    Mutant("door/decoding.py", "positions=state.positions + come", "positions=state.positions + tokens", law("stepping_equals_the_whole", LINEAR)),
    Mutant("door/decoding.py", "jnp.where(real & (positions < state.dims.key_length), positions", "jnp.where(real, positions", law("a_state_has_an_end", LINEAR)),
    Mutant("engines/ring.py", "Origin(first_query, first_key, asked.offset)", "Origin(first_key, first_key, asked.offset)", split("Softmax()", "arrays")),
    Mutant("engines/ring.py", "jnp.where(there < here, 0, 1)", "jnp.where(there < here, 1, 0)", split("Softmax()", "packed documents")),
    Mutant("engines/ring.py", "d_k, d_v = self.shards.handed_on(of_keys)", "d_k, d_v = of_keys", split("Softmax()", "nothing")),
    Mutant("engines/ring.py", "old + part, pair.first_key, 3)", "old + part, 0, 3)", split("Softmax()", "arrays")),
    Mutant("engines/across.py", "Origin(first_query, first - sides[0], mask.query_offset)", "Origin(first_query, first, mask.query_offset)", split("SlidingWindow(left=2, right=1, dilation=1, global_tokens=0)", "a window")),
    Mutant("engines/across.py", "offset + first_query - first,", "offset,", f"{MESHES}test_a_window_of_fewer_queries_than_keys"),
    Mutant("engines/everywhere.py", "jnp.cumsum(which, axis=-1, dtype=jnp.int32) - 1 + before[..., None]", "jnp.cumsum(which, axis=-1, dtype=jnp.int32) - 1", split("SlidingWindow(left=3, right=2, dilation=1, global_tokens=2)", "global tokens in both directions")),
    Mutant("contract/shards.py", "jnp.arange(query_length) if self.of_keys else rows", "rows", f"{MESHES}test_keys_in_parts_beside_whole_queries[CosFormer(max_length=30, epsilon=1e-06)-'padding'-5-72.0]"),
    Mutant("engines/transitions.py", "return of(1, upto)", "return upto", split("Performer(features=8, orthogonal=True, seed=0)", "the past")),
    Mutant("engines/transitions.py", "self.turned @ earlier.turned", "earlier.turned @ self.turned", AT_ONCE.format("Delta(max_beta=1)", "plain")),
    Mutant("engines/transitions.py", "jax.tree.map(jnp.add, self.kept, earlier.kept)", "self.kept", AT_ONCE.format("GatedLinear()", "plain")),
    Mutant("engines/transitions.py", "goes_on &= earlier.goes_on", "pass", AT_ONCE.format("GatedLinear()", "segments in any order")),
    Mutant("engines/recurrence.py", "laid = laid.moved(stands[0][0])", "pass", split("CosFormer(max_length=30, epsilon=1e-06)", "the past")),
    Mutant("engines/recurrence.py", "(1, 1, 0)", "(1, 0, 1)", split("Performer(features=8, orthogonal=True, seed=0)", "documents")),
    Mutant("engines/recurrence.py", "shards.gathered(own.top[None], 0).max(axis=0)", "own.top", split("Performer(features=8, orthogonal=True, seed=0)", "nothing")),
    Mutant("kernels/nystrom.py", "counts.sum(), rank + before.sum()", "counts.sum(), rank", split("Nystrom(landmarks=5, iterations=6)", "nothing")),
    Mutant("door/sequences.py", "Origin(first, START, mask.query_offset)", "Origin(START, START, mask.query_offset)", f"{MESHES}test_fewer_heads_than_parts[Local(block_size=4, layout='contiguous')-'packed documents']"),
    Mutant("layers/products.py", "if name not in used", "if name", f"{MESHES}test_training_with_split_parameters[plain-Explicit]"),
    Mutant("layers/products.py", "x.reshape(-1, *x.shape[len(tokens) :])", "x", "tests/test_products.py::test_merged_tokens_change_no_number_and_gradients_of_weights_sum_over_one_axis"),
    Mutant("engines/caching.py", "(0 if shards is None else shards.index * count)", "0", f"{MESHES}test_decoding_over_the_length_of_a_cache[Softmax()-Auto]"),
    Mutant("door/caches.py", "PartitionSpec(*[None] * axis, names)", "PartitionSpec(None)", f"{MESHES}test_caches_are_made_in_parts"),
    Mutant("engines/everywhere.py", "jnp.exp(own.top - dense.finite(top)) * jnp.exp(own.log_total)", "jnp.exp(own.top - dense.finite(top))", split("SlidingWindow(left=3, right=2, dilation=1, global_tokens=2)", "global tokens in both directions")),
    Mutant("layers/products.py", "PartitionSpec(*split.spec[:1], None, *split.spec[2:])", "split.spec", f"{MESHES}test_pairs_of_documents"),
    Mutant("kernels/delta.py", "Channels(unit(k), log_decay)", "Channels(unit(k))", law("batched_equals_head", KIMI)),
    Mutant("kernels/delta.py", "q, k = unit(q), unit(k)", "k = unit(k)", law("batched_equals_head", KIMI)),
    Mutant("engines/replay.py", "jnp.where(seen[:, None], jnp.atleast_1d", "jnp.where(True, jnp.atleast_1d", law("batched_equals_head", "GatedLinear()")),
    Mutant("engines/dense.py", "seen[:, :0:-1]", "seen[:, 1:]", law("batched_equals_head", "StateSpace()")),
    Mutant("kernels/gated_linear.py", "Channels(k, log_decay)", "Channels(k, log_decay[:, 0])", law("batched_equals_head", "GatedLinear()")),
    Mutant("kernels/state_space.py", "Channels(beta[:, None] * k,", "Channels(k,", law("batched_equals_head", "StateSpace()")),
    Mutant("kernels/retention.py", "+ positions.query_offset - jnp", "- jnp", law("batched_equals_head", "Retention()")),
    Mutant("engines/sums.py", "jnp.where(b[0], 0, part)", "part", law("packed_neighbours_cannot_touch_each_other", "Forgetting()")),
    Mutant("engines/sums.py", "low + b[2] + rounded", "low + b[2]", "tests/test_oracles.py::test_differences_of_long_sums_have_all_their_digits"),
    Mutant("kernels/forgetting.py", "sums.between(projected, self.upto", "-sums.between(projected, self.upto", law("batched_equals_head", "Forgetting()")),
    Mutant("kernels/cosformer.py", "jax.nn.relu(x) * jnp.sin(angle)", "jax.nn.relu(x) * -jnp.cos(angle)", "tests/test_oracles.py::test_values[CosFormer(max_length=20, epsilon=1e-06)-plain]"),
    Mutant("engines/recurrence.py", "stands[0][None] + mask.query_offset", "stands[0][None] + 0 * mask.query_offset", "tests/test_recurrence.py::test_queries_that_see_all_keys_stand_somewhere[False]"),
    Mutant("kernels/based.py", "x**2 * 0.5**0.5", "x**2", law("batched_equals_head", "Based()")),
    Mutant("kernels/log_linear.py", "(length - 1).bit_length() + 1", "(length - 1).bit_length()", "tests/test_states.py::test_levels_that_a_sequence_is_too_short_for_are_not_computed"),
    Mutant("kernels/log_linear.py", "of_levels - jnp.pad", "of_levels + jnp.pad", law("batched_equals_head", "LogLinear(levels=5)")),
    Mutant("kernels/log_linear.py", "clz(place & -place)", "clz(place)", law("batched_equals_head", "LogLinear(levels=5)")),
    Mutant("contract/mask.py", "counts = places - jax.lax.cummax", "counts = places + 0 * jax.lax.cummax", "tests/test_states.py::test_a_packed_document_is_what_it_is_alone[LogLinear(levels=4)]"),
]  # fmt: skip


def survives(mutant: Mutant, folder: pathlib.Path) -> bool:
    """Whether the test passes on a copy of the project with the replacement made."""
    for name in ("attnzoo", "experiments", "tests", "setup.cfg"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    path = folder / "attnzoo" / mutant.file
    text = path.read_text()
    if mutant.old not in text:
        raise SystemExit(f"{mutant.file} no longer has {mutant.old!r}: renew the mutant")
    path.write_text(text.replace(mutant.old, mutant.new, 1))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", mutant.test]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    # A law that something else than a breach of it has ended says so; so does a test that could not start.
    if done.returncode not in (0, 1) or "the direct cause of the following exception" in done.stdout:
        raise SystemExit(f"{mutant} does not run:\n{done.stdout}")
    return done.returncode == 0


def main(part: str = "") -> int:
    chosen = [mutant for mutant in MUTANTS if part in mutant.file]
    survivors = 0
    for mutant in chosen:
        with tempfile.TemporaryDirectory() as folder:
            alive = survives(mutant, pathlib.Path(folder))
        survivors += alive
        print(f"{'SURVIVES' if alive else 'caught':9} {mutant.file:28} {mutant.new!r:50} {mutant.test}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants are caught")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
