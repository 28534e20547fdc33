"""Break each kernel once, in a copy, and see that a law turns red: `python -m tests.mutants`."""

import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent


class Mutant(NamedTuple):
    """One replacement in one file, and the law that should notice."""

    kernel: str
    file: str
    old: str
    new: str
    law: str


MUTANTS = [
    Mutant("Softmax()", "compute/streaming.py", "total = total * shrink +", "total = total +", "any_length_works"),
    Mutant(
        "Softmax()", "compute/streaming.py", "d_weights + shift[row]", "d_weights - shift[row]", "batched_equals_head"
    ),
    Mutant(
        "Softmax()", "masking.py", "visible &= j <= i\n", "visible &= j <= i + 1\n", "the_future_cannot_touch_the_past"
    ),
    Mutant("Softmax()", "door.py", "_only(shown_keys, value)", "value", "hidden_keys_touch_nothing"),
    Mutant(
        "NadarayaWatson()", "kernels/nadaraya_watson.py", "** 2, axis=-1) / 2", "** 2, axis=-1)", "batched_equals_head"
    ),
    Mutant("Additive()", "kernels/additive.py", "@ query + bias,", "@ query,", "batched_equals_head"),
    Mutant(
        "SlidingWindow(2, 2, 3, 2)",
        "compute/schedule.py",
        "if global_tokens and",
        "if not global_tokens and",
        "any_length_works",
    ),
    Mutant(
        "SlidingWindow(5, 3)",
        "kernels/sliding_window.py",
        "mask = mask.within(self.band)\n        local",
        "local",
        "any_length_works",
    ),
    Mutant(
        "BigBird(4, 2)",
        "kernels/bigbird.py",
        "chosen < 0, -1, jnp.where(block >= hole",
        "chosen < 0, -1, jnp.where(block > hole",
        "any_length_works",
    ),
    Mutant(
        "BigBird(4, 2)", "kernels/bigbird.py", "jnp.where(is_global[:, None], -1, listed)", "listed", "any_length_works"
    ),
    Mutant(
        "Linear()",
        "compute/recurrence.py",
        "(queries.segment == keys.segment[0])",
        "(queries.segment >= 0)",
        "packed_neighbours_cannot_touch_each_other",
    ),
    Mutant(
        "Linear()",
        "compute/recurrence.py",
        "keys.index <= queries.place",
        "keys.index < queries.place",
        "batched_equals_head",
    ),
    Mutant(
        "Performer(16)",
        "compute/recurrence.py",
        "top = jnp.max(jnp.where(inside, b, LOWEST), axis=1)",
        "top = jnp.full(len(phi), b.max())",
        "the_future_cannot_touch_the_past",
    ),
    Mutant(
        "SlidingWindow(5, 3)",
        "kernels/sliding_window.py",
        "visible &= self.band.at(i,",
        "visible |= self.band.at(i,",
        "any_length_works",
    ),
    Mutant(
        "Linformer(5)",
        "kernels/linformer.py",
        "ones((1, len(k)), bool) if keys is None else keys[None]",
        "ones((1, len(k)), bool)",
        "blind_queries_give_nothing",
    ),
    Mutant(
        "Linformer(5)",
        "kernels/linformer.py",
        "visible.any(axis=0, keepdims=True), scale)",
        "visible.any(axis=0, keepdims=True), 1.0)",
        "any_length_works",
    ),
    Mutant(
        "Nystrom(5)", "kernels/nystrom.py", "jnp.cumsum(shown) - 1", "jnp.arange(len(shown))", "padding_changes_nothing"
    ),
]


def survives(mutant: Mutant, folder: pathlib.Path) -> bool:
    """Whether the law passes on a copy of the package with the replacement made."""
    shutil.copytree(ROOT / "attnzoo", folder / "attnzoo", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "attnzoo" / mutant.file
    text = path.read_text()
    if mutant.old not in text:
        raise SystemExit(f"{mutant.file} no longer has {mutant.old!r}: renew the mutant")
    path.write_text(text.replace(mutant.old, mutant.new, 1))
    code = f"from attnzoo import *; from attnzoo.testing import check_law; check_law({mutant.kernel}, {mutant.law!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    crashed = "The above exception was the direct cause" in done.stderr or "LawBroken" not in done.stderr
    if done.returncode and crashed:
        raise SystemExit(f"{mutant} does not run:\n{done.stderr}")
    return done.returncode == 0


def main() -> int:
    survivors = 0
    for mutant in MUTANTS:
        with tempfile.TemporaryDirectory() as folder:
            alive = survives(mutant, pathlib.Path(folder))
        survivors += alive
        print(f"{'SURVIVES' if alive else 'caught':9} {mutant.kernel:26} {mutant.law:42} {mutant.new!r}", flush=True)
    print(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} mutants are caught")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
