"""The main job: scaling and accuracy of the kernels at one size, and one page about both.

    python -m experiments.compare --preset=full --out=runs/compare

The full preset takes about six minutes on two cores, the small one about one. Each part is an experiment of its own,
run by the command that the page shows.
"""
