"""Devices that are not here, as their compilers know them."""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from importlib import metadata

import jax
from jax.experimental import topologies

from experiments.bench.chips import CHIPS

# What has the compiler of a platform, one of several.
COMPILERS = {"cuda": ("jax_cuda13_plugin", "jax_cuda12_plugin"), "tpu": ("libtpu",)}
# A TPU is one process's, and told of by a server of its machine's: neither is asked for, where there is none.
ALONE = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
TRIED = "0.10.2, 0.11.2 and 0.12.0.1"  # versions of jax by which each target was compiled for


def compiler(target: str) -> str:
    """The compiler of a target, and its version, such as `libtpu 0.0.48`.

    Raises:
      ValueError: it is not installed.
    """
    platform = CHIPS[target].platform
    for name in COMPILERS[platform]:
        if importlib.util.find_spec(name) is not None:
            package = name.replace("_", "-")
            return f"{package} {metadata.version(package)}"
    names = " or ".join(COMPILERS[platform])
    raise ValueError(f"--targets={target}: its compiler, {names}, is not installed: pip install -e '.[aot]'")


def device(target: str) -> jax.Device:
    """A device to compile for.

    Raises:
      ValueError: this version of jax does not take what is known of it.
    """
    chip = CHIPS[target]
    os.environ.update(ALONE)
    given = {"target_config": chip.description(), "topology": "1x1x1"} if chip.platform == "cuda" else {}
    name = "" if chip.platform == "cuda" else chip.topology
    try:
        return topologies.get_topology_desc(name, chip.platform, **given).devices[0]
    except Exception as error:  # whatever the plug-in raises
        raise ValueError(
            f"jax {jax.__version__} does not take the description of {target} (experiments/bench/chips.py), which "
            f"{TRIED} do: {str(error).splitlines()[0]}"
        ) from error


def named(device: jax.Device) -> AbstractContextManager[None]:
    """Programs that are traced inside are told which device they are for, as they are where there is one."""
    told = jax.sharding.AbstractDevice(device.device_kind, getattr(device, "num_cores", 1), platform=device.platform)
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=told))
