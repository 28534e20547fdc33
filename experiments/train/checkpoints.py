"""Trees of arrays on disk, by orbax, and beside them a description with a checksum of each, and one of itself.

A checkpoint is whole once its description is there, which is written last. Nothing in it is executed: the description
is JSON, and kernels are named by the catalogue. Where arrays are split over devices, or over processes, each of these
writes and reads its parts, into a folder that all see; what is read is split as what it is read for, whatever wrote it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.bench import processes
from experiments.train.devices import whole

ABOUT, ARRAYS = "about.json", "arrays"
Tree = Any


def write(folder: pathlib.Path, tree: Tree, about: dict) -> None:
    """Write `tree` and `about`; what was there is replaced. All processes of a run must ask for it.

    Raises:
      OSError: it could not be written, by one of them; what is left of it is no checkpoint.
    """
    folder = pathlib.Path(folder).absolute()
    failure = None
    try:
        _write(folder, _leaves(tree), about)
    except OSError as error:
        failure = error
    if processes.any_of(failure is not None):
        if processes.is_first():
            shutil.rmtree(folder, ignore_errors=True)
        raise failure or OSError("another process could not write its part")


def _write(folder, leaves, about):
    if processes.is_first():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        with _quiet(), _checkpointer() as checkpointer:
            checkpointer.save(folder / ARRAYS, leaves)
    except ValueError as error:  # how tensorstore tells of a disk that is full
        raise OSError(_first_line(error)) from None
    described = {name: _described(array) for name, array in leaves.items()}
    if processes.is_first():
        _describe(folder, {"about": about, "arrays": described, "files": _files(folder)})


def _describe(folder, told):
    unfinished = folder / f"{ABOUT}.unfinished"
    with unfinished.open("w") as file:
        json.dump(told | {"sha256": _digest(told)}, file, allow_nan=False, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, folder / ABOUT)


def read(folder: pathlib.Path, like: Tree) -> tuple[Tree, dict]:
    """The tree of a checkpoint, of the structure of `like`, and what `write` was told about it.

    Raises:
      ValueError: there is no checkpoint; it is damaged; or it is of another tree, whose leaves are told.
    """
    folder = pathlib.Path(folder).absolute()
    description, leaves = _description(folder), _leaves(like)
    described = description["arrays"]
    expected = {name: _sizes(array) for name, array in leaves.items()}
    found = {name: {"shape": given["shape"], "dtype": given["dtype"]} for name, given in described.items()}
    if found != expected:
        name = next(name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name))
        raise ValueError(
            f"{folder} is a checkpoint of another model: {name} is {_told(found.get(name))} there, and "
            f"{_told(expected.get(name))} in the model; build it as the checkpoint's {ABOUT} tells"
        )
    if _files(folder) != description["files"]:  # which orbax would tell in hundreds of lines
        raise ValueError(f"{folder} is damaged: the files in {ARRAYS} are not those that were saved")
    target = {name: _target(x) for name, x in leaves.items()}
    try:
        with _quiet(), _checkpointer() as checkpointer:
            arrays = checkpointer.restore(folder / ARRAYS, target)
    except Exception as error:  # each kind of damage raises another one
        raise ValueError(f"{folder} is damaged: {_first_line(error)}") from None
    for name, array in arrays.items():
        if _described(array) != described[name]:
            raise ValueError(f"{folder} is damaged: the bytes of {name} are not those that were saved")
    put = [_like(arrays[name], leaf) for name, leaf in zip(leaves, jax.tree.leaves(like), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), put), description["about"]


def save(folder: pathlib.Path, model: nnx.Module, about: dict) -> None:
    """Write the parameters of `model`, and `about`, which must tell how to build it."""
    write(folder, _params(model), about)


def about(folder: pathlib.Path) -> dict:
    """What was told about a checkpoint.

    Raises:
      ValueError: there is no checkpoint, or its description is damaged.
    """
    return _description(pathlib.Path(folder))["about"]


def restore(folder: pathlib.Path, model: nnx.Module) -> None:
    """Put the parameters of a checkpoint into `model`.

    Raises:
      ValueError: as `read` does.
    """
    params, _ = read(folder, _params(model))
    state = nnx.state(model, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(model, state)


def _params(model: nnx.Module) -> dict:
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def _checkpointer():
    import orbax.checkpoint as orbax

    return orbax.StandardCheckpointer()


@contextlib.contextmanager
def _quiet():
    """What fails is raised, and said in one line: orbax would log it in hundreds."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _files(folder: pathlib.Path) -> dict[str, str]:
    """A checksum of each file of the arrays."""
    paths = sorted(path for path in (folder / ARRAYS).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _digest(told: dict) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _leaves(tree: Tree) -> dict[str, jax.Array]:
    """Arrays by the path that leads to them, in the order of the tree; random keys as the numbers behind them."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(str(getattr(key, "key", key)) for key in path): _plain(array) for path, array in paths}


def _target(x) -> jax.ShapeDtypeStruct:
    """As what an array is read: where nothing is said, orbax wants the devices that it was written from."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))


def _plain(array):
    return jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array


def _like(array, leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
    return array


def _sizes(array) -> dict:
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


def _described(array) -> dict:
    return _sizes(array) | {"sha256": hashlib.sha256(np.ascontiguousarray(whole(array)).tobytes()).hexdigest()}


def _told(sizes: dict | None) -> str:
    return "absent" if sizes is None else f"{sizes['dtype']}{sizes['shape']}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _description(folder: pathlib.Path) -> dict:
    path = pathlib.Path(folder) / ABOUT
    if not path.is_file():
        raise ValueError(f"{folder} is no checkpoint: it has no {ABOUT}; expected a folder that `save` has finished")
    try:
        found = json.loads(path.read_text())
        digest = found.pop("sha256")
    except (ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: expected JSON with `about`, `arrays`, `files` and `sha256`") from None
    if digest != _digest(found):
        raise ValueError(f"{path} is damaged: it is not what was saved")
    return found
