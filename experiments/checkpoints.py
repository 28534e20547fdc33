"""Trained models on disk: arrays by orbax, and beside them a description with a checksum of each.

A checkpoint is whole once its description is there, which is written last. Nothing in it is executed: the description
is JSON, and kernels are named by the catalogue.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil

import jax
import numpy as np
from flax import nnx

ABOUT, ARRAYS = "about.json", "arrays"


def save(folder: pathlib.Path, model: nnx.Module, about: dict) -> None:
    """Write the parameters of `model`, and `about`, which must tell how to build it; what was there is replaced."""
    import orbax.checkpoint as orbax

    folder = pathlib.Path(folder).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    leaves = _leaves(model)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / ARRAYS, leaves)
    described = {name: _described(array) for name, array in leaves.items()}
    unfinished = folder / f"{ABOUT}.unfinished"
    unfinished.write_text(json.dumps({"about": about, "arrays": described}, allow_nan=False, indent=1, sort_keys=True))
    os.replace(unfinished, folder / ABOUT)


def about(folder: pathlib.Path) -> dict:
    """What `save` was told of the model.

    Raises:
      ValueError: there is no checkpoint, or its description is damaged.
    """
    return _description(pathlib.Path(folder))["about"]


def restore(folder: pathlib.Path, model: nnx.Module) -> None:
    """Put the parameters of a checkpoint into `model`.

    Raises:
      ValueError: there is no checkpoint; it is damaged; or it is of another model, whose parameters are told.
    """
    import orbax.checkpoint as orbax

    folder = pathlib.Path(folder).absolute()
    described, leaves = _description(folder)["arrays"], _leaves(model)
    expected = {name: _sizes(array) for name, array in leaves.items()}
    found = {name: {"shape": given["shape"], "dtype": given["dtype"]} for name, given in described.items()}
    if found != expected:
        name = next(name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name))
        raise ValueError(
            f"{folder} is a checkpoint of another model: {name} is {_told(found.get(name))} there, and "
            f"{_told(expected.get(name))} in the model; build it as the checkpoint's {ABOUT} tells"
        )
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), leaves)
    try:
        with orbax.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore(folder / ARRAYS, target)
    except Exception as error:  # each kind of damage raises another one
        raise ValueError(f"{folder} is damaged: {str(error).splitlines()[0][:200]}") from None
    for name, array in arrays.items():
        if _described(array) != described[name]:
            raise ValueError(f"{folder} is damaged: the bytes of {name} are not those that were saved")
    state = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.unflatten(jax.tree.structure(state), [arrays[name] for name in leaves]))


def _leaves(model: nnx.Module) -> dict[str, jax.Array]:
    """Parameters by the path that leads to them, in the order of the model's tree."""
    paths, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {".".join(str(getattr(key, "key", key)) for key in path): array for path, array in paths}


def _sizes(array) -> dict:
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


def _described(array) -> dict:
    return _sizes(array) | {"sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}


def _told(sizes: dict | None) -> str:
    return "absent" if sizes is None else f"{sizes['dtype']}{sizes['shape']}"


def _description(folder: pathlib.Path) -> dict:
    path = pathlib.Path(folder) / ABOUT
    if not path.is_file():
        raise ValueError(f"{folder} is no checkpoint: it has no {ABOUT}; expected a folder that `save` has finished")
    try:
        found = json.loads(path.read_text())
        if {"about", "arrays"} <= found.keys():
            return found
    except (ValueError, AttributeError):
        pass
    raise ValueError(f"{path} is damaged: expected JSON with `about` and `arrays`")
