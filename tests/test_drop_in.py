"""Flax's layers and ours in its place: constructors, calls, lifted transforms, checkpoints in both directions."""

import dataclasses
import inspect
import warnings

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as orbax
import pytest
from flax import nnx

import attnzoo.linen
import attnzoo.nnx
from attnzoo import Additive, Dims, Linear, Performer, Softmax, T5Buckets, as_attention_fn, attend, attention_weights
from tests.few import few

LENGTH, WIDTH = 6, 16
X = jax.random.normal(jax.random.key(0), (2, LENGTH, WIDTH))
MASK = nn.make_causal_mask(X[..., 0])
PAIRS = [
    pytest.param(
        *(getattr(module, name) for module in (nn, attnzoo.linen)),
        id=name,
        marks=[pytest.mark.slow] * (name == "MultiHeadAttention"),  # which is the first by another name
    )
    for name in ("MultiHeadDotProductAttention", "MultiHeadAttention", "SelfAttention")
]
# What Flax's layers take and ours honour or refuse by name; a field that Flax adds one day is in neither, and must not
# be taken in silence.
HONOURED = """
    num_heads dtype param_dtype qkv_features out_features broadcast_dropout dropout_rate deterministic precision
    kernel_init out_kernel_init bias_init out_bias_init use_bias decode normalize_qk force_fp32_for_softmax
    qkv_dot_general out_dot_general qkv_dot_general_cls out_dot_general_cls
""".split()
REFUSED = ["attention_fn", "qk_attn_weights_einsum_cls", "attn_weights_value_einsum_cls"]
OF_NNX = """
    self in_features num_kv_heads in_kv_features qkv_promote_dtype out_promote_dtype ln_promote_dtype rngs keep_rngs
    kernel_metadata out_kernel_metadata bias_metadata out_bias_metadata query_ln_scale_metadata key_ln_scale_metadata
""".split()


def fields(layer):
    return [field.name for field in dataclasses.fields(layer) if field.name not in ("parent", "name")]


def same(x, y, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), x, y)


def two_blocks(layer):
    """Of layers without names, one of which is checkpointed."""

    class Blocks(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            x = x + layer(num_heads=2)(x, mask=mask)
            return x + nn.remat(layer)(num_heads=4, normalize_qk=True)(x, mask=mask)

    return Blocks()


def scanned(layer):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            return x + layer(num_heads=2)(x, mask=mask), None

    lifted = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast, length=3)
    return type("Stack", (nn.Module,), {"__call__": nn.compact(lambda self, x, mask: lifted()(x, mask)[0])})()


@pytest.mark.filterwarnings("ignore:SelfAttention will:DeprecationWarning")
@pytest.mark.parametrize("theirs, ours", PAIRS)
@pytest.mark.parametrize("model", few([two_blocks, scanned], [scanned]))
def test_a_model_of_layers_without_names_loads_unchanged_both_ways(theirs, ours, model):
    before, after = model(theirs), model(ours)
    params, again = (jax.jit(model.init)(jax.random.key(1), X, MASK) for model in (before, after))
    assert jax.tree.structure(params) == jax.tree.structure(again)
    same(params, again, 0)
    expected = before.apply(params, X, MASK)
    same(after.apply(params, X, MASK), expected)
    grads = (
        jax.jit(jax.grad(lambda p, model=model: model.apply(p, X, MASK).sum()))(params) for model in (before, after)
    )
    same(*grads, 1e-4)


class InLinen:
    """Training of a Linen model: state, and a step to the next state and its loss."""

    def __init__(self, name):
        module = nn if name == "flax" else attnzoo.linen
        self.model = two_blocks(module.MultiHeadDotProductAttention)
        self.optimiser = optax.sgd(0.1, momentum=0.9)

    def state(self, seed):
        params = jax.jit(self.model.init)(jax.random.key(seed), X, MASK)
        return {"params": params, "optimiser": self.optimiser.init(params)}

    def step(self, state):
        loss = lambda params: (self.model.apply(params, X, MASK) ** 2).mean()
        value, grads = jax.value_and_grad(loss)(state["params"])
        updates, optimiser = self.optimiser.update(grads, state["optimiser"])
        return {"params": optax.apply_updates(state["params"], updates), "optimiser": optimiser}, value


class InNNX:
    """The same of an NNX layer."""

    def __init__(self, name):
        self.layer = nnx.MultiHeadAttention if name == "flax" else attnzoo.nnx.MultiHeadAttention

    def state(self, seed):
        layer = self.layer(2, WIDTH, decode=False, rngs=nnx.Rngs(seed))
        optimiser = nnx.Optimizer(layer, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)
        self.graph, state = nnx.split((layer, optimiser))
        return state

    def step(self, state):
        layer, optimiser = nnx.merge(self.graph, state)
        value, grads = nnx.value_and_grad(lambda layer: (layer(X, mask=MASK) ** 2).mean())(layer)
        optimiser.update(layer, grads)
        return nnx.state((layer, optimiser)), value


@pytest.mark.slow
@pytest.mark.parametrize("kind", [InLinen, InNNX])
@pytest.mark.parametrize("before, after", [("flax", "attnzoo"), ("attnzoo", "flax")])
def test_training_goes_on_from_a_checkpoint_of_the_other(kind, before, after, tmp_path):
    first, second = kind(before), kind(after)
    state, _ = jax.jit(first.step)(first.state(0))
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", second.state(1))
    (state, loss), (again, loss_again) = jax.jit(first.step)(state), jax.jit(second.step)(restored)
    same(loss_again, loss)
    leaves, others = (jax.tree.leaves(nnx.to_pure_dict(x) if kind is InNNX else x) for x in (state, again))
    same(others, leaves, 1e-4)


def test_a_cache_of_flax_is_decoded_further():
    theirs, ours = (module.MultiHeadDotProductAttention(2, decode=True) for module in (nn, attnzoo.linen))
    variables = theirs.init(jax.random.key(0), X)
    params, cache = flax.core.pop(variables, "cache")
    for i in range(LENGTH):
        given = params | {"cache": cache}
        (out, _), (expected, changed) = (
            layer.apply(given, X[:, i : i + 1], mutable="cache") for layer in (ours, theirs)
        )
        same(out, expected)
        cache = changed["cache"]


@pytest.mark.parametrize("lift", [nn.jit, lambda layer: nn.map_variables(layer, "params", init=True)])
def test_lifted_layers_load_unchanged(lift):
    theirs, ours = (lift(module.MultiHeadDotProductAttention)(num_heads=2) for module in (nn, attnzoo.linen))
    params = theirs.init(jax.random.key(0), X)
    same(ours.init(jax.random.key(0), X), params, 0)
    same(ours.apply(params, X, mask=MASK), theirs.apply(params, X, mask=MASK))


def test_layers_beside_each_other_have_dropout_of_their_own():
    def ensemble(layer, deterministic):
        axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "dropout": True}}
        lifted = nn.vmap(layer, in_axes=None, out_axes=0, axis_size=3, **axes)
        return lifted(num_heads=2, dropout_rate=0.5, deterministic=deterministic)

    layers = nn.MultiHeadDotProductAttention, attnzoo.linen.MultiHeadDotProductAttention
    (theirs, ours), (_, dropping) = ([ensemble(layer, quiet) for layer in layers] for quiet in (True, False))
    params = theirs.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)
    same(ours.apply(params, X), theirs.apply(params, X))
    alike = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), params)
    one, two, three = dropping.apply(alike, X, rngs={"dropout": jax.random.key(2)})
    assert min(np.abs(one - two).max(), np.abs(two - three).max()) > 1e-3


def test_fields_are_those_of_flax_in_its_order():
    theirs = fields(nn.MultiHeadDotProductAttention)
    assert fields(attnzoo.linen.MultiHeadAttention)[: len(theirs)] == theirs
    assert set(theirs) <= {*HONOURED, *REFUSED}
    given = inspect.signature(nnx.MultiHeadAttention.__init__).parameters
    assert set(given) <= {*HONOURED, *REFUSED, *OF_NNX}
    assert set(given) - {"attention_fn"} <= set(inspect.signature(attnzoo.nnx.MultiHeadAttention.__init__).parameters)
    layer = attnzoo.linen.MultiHeadAttention(2, jnp.bfloat16)
    assert layer.init_with_output(jax.random.key(0), X)[0].dtype == jnp.bfloat16
    assert layer.broadcast_dropout and attnzoo.nnx.MultiHeadAttention(2, WIDTH, rngs=nnx.Rngs(0)).broadcast_dropout


def test_what_stands_in_place_of_a_kernel_is_refused():
    layer = attnzoo.linen.MultiHeadAttention(2, attention_fn=as_attention_fn(Softmax()))
    with pytest.raises(ValueError, match="expected `attention`, a kernel"):
        layer.init(jax.random.key(0), X)
    for name in REFUSED[1:]:
        with pytest.raises(NotImplementedError, match=name):
            attnzoo.linen.MultiHeadAttention(2, **{name: lambda: jnp.einsum}).init(jax.random.key(0), X)
    with pytest.raises(TypeError, match="attention_fn"):
        attnzoo.nnx.MultiHeadAttention(2, WIDTH, attention_fn=nnx.dot_product_attention, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("mask", [MASK, np.asarray(MASK), np.asarray(MASK, bool)], ids=["jax", "NumPy", "bool"])
def test_a_mask_that_is_known_stays_known_under_jit(mask):
    linen = attnzoo.linen.MultiHeadAttention(2, attention=Linear())
    params = linen.init(jax.random.key(0), X)
    layer = attnzoo.nnx.MultiHeadAttention(2, WIDTH, attention=Linear(), decode=False, rngs=nnx.Rngs(0))
    calls = (lambda x, **asked: linen.apply(params, x, **asked)), layer
    for call in calls:
        same(jax.jit(lambda x, call=call: call(x, mask=mask))(X), call(X, is_causal=True))


def test_old_ways_of_calling_are_taken_with_a_warning():
    layer = attnzoo.linen.MultiHeadDotProductAttention(2)
    params, key = layer.init(jax.random.key(0), X), X[:, ::-1]
    with pytest.warns(DeprecationWarning, match="inputs_kv"):
        same(layer.apply(params, X, inputs_kv=key), layer.apply(params, X, key), 0)
    with pytest.raises(ValueError, match="`inputs_kv` must be None"):
        layer.apply(params, X, key, inputs_kv=key)
    with pytest.warns(DeprecationWarning, match="if it is a mask, pass it by name"):
        layer.apply(params, X[:, :, :WIDTH], jnp.ones((2, WIDTH, WIDTH)), jnp.ones((2, WIDTH, WIDTH)))
    alone = attnzoo.linen.SelfAttention(2)
    with pytest.warns(DeprecationWarning, match="SelfAttention will go"):
        same(alone.apply(params, X, MASK, True), layer.apply(params, X, mask=MASK), 0)


def dropping(kind, **fields):
    """A layer's outputs with dropout, as a function of inputs and key."""
    if kind is nn:
        layer = attnzoo.linen.MultiHeadAttention(4, dropout_rate=0.5, deterministic=False, use_bias=False, **fields)
        params = layer.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)
        return lambda x, seed: layer.apply(params, x, rngs={"dropout": jax.random.key(seed)})
    fields |= {"dropout_rate": 0.5, "deterministic": False, "use_bias": False}
    layer = attnzoo.nnx.MultiHeadAttention(4, WIDTH, rngs=nnx.Rngs(0), **fields)
    return lambda x, seed: layer(x, rngs=nnx.Rngs(dropout=seed))


@pytest.mark.parametrize("kind", [nn, nnx], ids=["linen", "nnx"])
@pytest.mark.parametrize("fields", [{}, {"attention": Linear(), "dropout_on": "outputs"}], ids=["weights", "outputs"])
def test_dropout_is_shared_by_examples_where_flax_shares_it(kind, fields):
    twins = jnp.stack([X[0], X[0]])
    shared, apart = (dropping(kind, broadcast_dropout=x, **fields)(twins, 3) for x in (True, False))
    same(shared[0], shared[1], 1e-6)
    assert np.abs(apart[0] - apart[1]).max() > 1e-2
    assert np.abs(shared - dropping(kind, **fields)(twins, 4)).max() > 1e-2
    same(shared, dropping(kind, **fields)(twins, 3), 0)  # shared by default


def test_shared_dropout_drops_what_flax_would_scale():
    given = {"dropout_rate": 0.25, "rng": jax.random.key(2), "broadcast_dropout": True}
    q = k = jax.random.normal(jax.random.key(3), (3, 20, 4, 8))
    plain, dropped = attention_weights(q, k), attention_weights(q, k, **given)
    kept = np.asarray(dropped[0, 0] != 0)
    np.testing.assert_allclose(dropped, np.where(kept, plain / 0.75, 0), atol=1e-6)
    assert 0.6 < kept.mean() < 0.9
    as_flax = as_attention_fn(Softmax())
    out = as_flax(q, k, k, dropout_rate=0.25, dropout_rng=jax.random.key(2))
    np.testing.assert_allclose(out, jnp.einsum("bnts,bsnh->btnh", dropped, k), atol=1e-5)
    with pytest.raises(ValueError, match="without rng"):
        as_flax(q, k, k, dropout_rate=0.25)


@pytest.mark.parametrize("is_shared", [True, False])
def test_outputs_are_dropped_and_scaled(is_shared):
    q = k = v = jax.random.normal(jax.random.key(3), (2, 50, 4, 8))
    given = {"dropout_rate": 0.25, "dropout_rng": jax.random.key(2), "broadcast_dropout": is_shared}
    out = as_attention_fn(Linear(), dropout_on="outputs")(q, k, v, **given)
    kept = np.asarray(out != 0)
    np.testing.assert_allclose(out, np.where(kept, attend(q, k, v, kernel=Linear()) / 0.75, 0), atol=1e-6)
    assert abs(kept.mean() - 0.75) < 0.05
    assert (kept == kept[:1, :, :1]).all() == is_shared


def test_kernels_without_weights_say_what_can_be_dropped():
    with pytest.raises(NotImplementedError, match=r'Linear cannot honour `dropout_rate`.*dropout_on="outputs"'):
        attnzoo.nnx.MultiHeadAttention(2, WIDTH, attention=Linear(), dropout_rate=0.1, rngs=nnx.Rngs(0))
    with pytest.raises(NotImplementedError, match='dropout_on="outputs"'):
        attnzoo.linen.MultiHeadAttention(2, attention=Linear(), dropout_rate=0.1).init(jax.random.key(0), X)
    with pytest.raises(NotImplementedError, match='dropout_on="outputs"'):
        as_attention_fn(Linear())(*[X.reshape(2, LENGTH, 2, 8)] * 3, dropout_rate=0.1, dropout_rng=jax.random.key(0))
    with pytest.raises(ValueError, match="dropout_on='scores'"):
        as_attention_fn(Linear(), dropout_on="scores")


@pytest.mark.parametrize("made_by", ["function", "class"])
def test_products_of_projections_are_the_callers(made_by):
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        return jax.lax.dot_general(*args, **kwargs)

    suffix, given = ("", counted) if made_by == "function" else ("_cls", lambda: counted)
    for part, count in (("qkv", 3), ("out", 1)):
        calls.clear()
        attnzoo.linen.MultiHeadAttention(2, **{f"{part}_dot_general{suffix}": given}).init(jax.random.key(0), X)
        assert len(calls) == count
        calls.clear()
        attnzoo.nnx.MultiHeadAttention(2, WIDTH, rngs=nnx.Rngs(0), **{f"{part}_dot_general{suffix}": given})(X)
        assert len(calls) == count


@pytest.mark.parametrize("force, dtype", [(False, jnp.bfloat16), (True, jnp.float32)])
def test_sown_weights_have_the_dtype_of_flax(force, dtype):
    given = {"num_heads": 2, "dtype": jnp.bfloat16, "force_fp32_for_softmax": force}
    for layer in (attnzoo.linen.MultiHeadAttention(**given), nn.MultiHeadAttention(**given)):
        params = layer.init(jax.random.key(0), X)
        _, state = layer.apply(params, X, sow_weights=True, mutable=["intermediates"])
        assert state["intermediates"]["attention_weights"][0].dtype == dtype


def test_metadata_and_names_of_partitions():
    names = ("embed", "heads", "kv")
    init = nn.with_partitioning(nn.initializers.lecun_normal(), names)
    learning = {"attention": Additive(), "positions": T5Buckets(), "heads_axis": "heads"}
    layer = attnzoo.linen.MultiHeadAttention(4, kernel_init=init, **learning)
    variables = layer.init(jax.random.key(0), X)
    expected = {"query": ("heads", None, None), "bias": ("heads", None)}
    of_linen = nn.get_partition_spec(variables)["params"]
    assert of_linen["query"]["kernel"] == jax.sharding.PartitionSpec(*names)
    assert of_linen["positions"] == jax.sharding.PartitionSpec("heads", None)
    same(layer.apply(variables, X), layer.apply(nn.meta.unbox(variables), X), 0)
    mesh = jax.make_mesh((1, 1, 1), names, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        metadata = {"kernel_metadata": {"out_sharding": names}, "bias_metadata": {"tag": "mine"}}
        layer = attnzoo.nnx.MultiHeadAttention(4, WIDTH, rngs=nnx.Rngs(0), **learning, **metadata)
        of_nnx = nnx.get_partition_spec(nnx.state(layer, nnx.Param))
        assert layer(X).shape == X.shape
    assert layer.key.bias.get_metadata()["tag"] == "mine"
    assert of_nnx["query"]["kernel"].get_value() == jax.sharding.PartitionSpec(*names)
    for name, axes in expected.items():
        assert of_linen["attention"][name] == jax.sharding.PartitionSpec(*axes)
        assert of_nnx["attention"][name].get_value() == jax.sharding.PartitionSpec(*axes)


def test_shardings_and_dtypes_of_projections_are_the_callers():
    seen = []

    def promoted(arrays, *, dtype=None, **given):
        seen.append(len(arrays))
        return nnx.nn.dtypes.promote_dtype(arrays, dtype=dtype, **given)

    given = {"qkv_promote_dtype": promoted, "out_promote_dtype": promoted}
    layer = attnzoo.nnx.MultiHeadAttention(4, WIDTH, rngs=nnx.Rngs(0), **given)
    plain = attnzoo.nnx.MultiHeadAttention(4, WIDTH, rngs=nnx.Rngs(0))
    expected = plain(X)
    same(layer(X), expected, 0)
    assert len(seen) == 4
    mesh = jax.make_mesh((1,), ("data",))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, jax.NamedSharding(mesh, jax.P("data")))
        out = jax.jit(lambda x: plain(x, qkv_sharding=jax.P("data"), out_sharding=jax.P(None, None, "data")))(x)
    assert jax.typeof(out).sharding.spec == jax.P(None, None, "data")
    same(out, expected)


def lifted_by_nnx(layer):
    """Outputs through three layers, one after another, and of three beside each other."""

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def made(rngs):
        return layer(2, WIDTH, decode=False, rngs=rngs)

    layers = made(nnx.Rngs(0))
    through = nnx.scan(lambda x, layer: x + layer(x, mask=MASK), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    beside = nnx.vmap(lambda layer, x: layer(x, mask=MASK), in_axes=(0, None))
    return through(X, layers), beside(layers, X)


def test_nnx_scan_and_vmap_of_layers():
    same(*map(lifted_by_nnx, (nnx.MultiHeadAttention, attnzoo.nnx.MultiHeadAttention)))


def test_axes_that_seem_swapped_are_told_of_where_a_caller_made_them():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attnzoo.linen.MultiHeadAttention(8).init(jax.random.key(0), X[:, :3])
        attnzoo.nnx.MultiHeadAttention(8, WIDTH, rngs=nnx.Rngs(0))(X[:, :3])
    q = jnp.ones((1, 3, 8, 2))
    for call in (lambda: attend(q, q, q), lambda: attention_weights(q, q)):
        with pytest.warns(UserWarning, match="more heads") as told:
            call()
        assert [record.filename for record in told] == [__file__]


def test_draws_are_data_that_cost_no_compilation():
    kernel, dims = Performer(8), Dims(2, LENGTH, LENGTH, 4, 4, WIDTH // 4, WIDTH // 4)
    first, second = (kernel.draw(jax.random.key(seed), dims) for seed in (5, 6))
    linen = attnzoo.linen.MultiHeadAttention(4, attention=kernel)
    params = linen.init(jax.random.key(0), X)
    apply = jax.jit(chex.assert_max_traces(lambda x, draws: linen.apply(params, x, draws=draws), n=1))
    one, other = apply(X, first), apply(X, second)
    assert np.abs(one - other).max() > 1e-3
    layer = attnzoo.nnx.MultiHeadAttention(4, WIDTH, attention=kernel, decode=False, rngs=nnx.Rngs(0))
    q, k, v = (getattr(layer, name)(X) for name in ("query", "key", "value"))
    expected = layer.out(attend(q, k, v, is_causal=True, kernel=kernel, draws=second))
    same(layer(X, is_causal=True, draws=second), expected)
    layer.init_cache((2, LENGTH, WIDTH))
    steps = [layer(X[:, i : i + 2], decode=True, draws=second) for i in range(0, LENGTH, 2)]
    same(jnp.concatenate(steps, axis=1), expected)
