"""The sweep over tiles: every cell that makes sense, once."""

from experiments.bench import records
from experiments.tiles import run
from tests import summaries


def test_cells_are_timed_drawn_and_not_repeated(tmp_path):
    given = {"works": ("causal", "window"), "tiles": (16, 64), "pairs": (256, 4096), "length": 64, "heads": 2}
    settings = run.Settings(**given, head_dim=8, dtype="float32", repeats=5, seed=0, out=str(tmp_path))
    assert run.run(settings) == 0
    rows = records.read(tmp_path)
    assert all(row["status"] == "measured" and len(row["seconds"]) == 5 for row in rows)
    cells = [(row["work"], row["tile"], row["pairs"], row["length"]) for row in rows]
    sizes = [(16, 256), (16, 4096), (64, 4096)]  # a step holds one pair of tiles at least
    assert sorted(cells) == sorted((w, *size, n) for w, n in (("causal", 64), ("window", 256)) for size in sizes)
    assert (tmp_path / "tiles.png").stat().st_size > 5000
    assert "causal, 64 tokens: median time" in summaries.of(tmp_path)
    run.run(settings)
    assert len(records.read(tmp_path)) == len(rows)
