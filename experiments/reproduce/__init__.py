"""Which published results come out here, too?

    python -m experiments.reproduce --out=results/reproduce

127 numbers of three papers (`published.csv`), and for each the command that measures it, what it measured here, and a
verdict by a rule that was fixed beforehand (`verdict.py`): reproduced, differs, or not comparable for one of five
reasons. Every model runs as the public code had it and, beside it, as its paper means it: where the two differ, the
difference is an ablation (`presets.py`).

--only chooses. speed and memory are training steps of LRA's text classifier at 1,000 to 4,000 bytes, as ratios to
softmax (about nine minutes on two cores as the public code ran). mqar, the five tasks of LRA (listops, text, retrieval,
image, pathfinder) and the same with -small train models by `python -m experiments.accuracy`, whose rows go into folders
of their own. By default speed, memory and mqar run; the others want a GPU and hours, and all but listops a folder of
data that is yours to fetch (`trainings.py`). A rerun does what is missing; --dry_run tells what that is.
Speed was published for a TPU, where what is not a large product costs more than here: few ratios will agree.
"""
