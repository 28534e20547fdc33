"""What do benchmarks that separate kernels say, by the settings of their papers?

    python -m experiments.suites --suite=mad --scale=small --kernels='softmax, delta' --out=runs/suites
    python -m experiments.suites --suite=mad --dry_run

A suite is a list of trainings by `python -m experiments.accuracy`, one command each, whose rows go into folders of
their own. --scale=published has lengths, symbols, examples, epochs, rates and widths of the paper or its code, which
want a GPU; --scale=small has few steps of small models, for two cores. --dry_run prints what each is, what differs from
the paper, how many models there are, which kernels are refused, and the commands, and with --hours what they take.
Scores of MAD and of the Long Range Arena are told afterwards, from the rows (`score.py`), and kept in `scores.json`. A
rerun does what is missing.
"""
