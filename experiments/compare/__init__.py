"""The main job: scaling and accuracy of the kernels at one size, and one page about both.

    python -m experiments.compare --preset=full --out=runs/compare
    python -m experiments.compare --preset=hour --out=results

The full preset takes seven to eleven minutes on two cores, the small one about one. The hour of processor time is for
more questions, small: recall by width, longer texts than were learned, needles, kernels exchanged, errors of
approximation, and published results. Each part is an experiment of its own, run by the command that the page shows; a
rerun does what is missing.
"""
