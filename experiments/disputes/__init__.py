"""What is in dispute about attention, by rules that were fixed beforehand: a command, five seeds, and a verdict each.

    python -m experiments.disputes --disputes=hybrid,state,eigenvalues --out=results/disputes

Each dispute (`cases.py`) is a sentence that papers affirm or deny, the models that would tell, and a rule (`rules.py`)
by which their scores decide: it holds, it fails, or it stays undecided, which is no weaker a finding. Models are
trained by `experiments.accuracy` into a folder of their own, at the learning rate that validation chooses; what the
verdict is of, and what it cannot tell at that size, stands beside it. --dry_run prints claims, rules, commands and
hours. Those that want a card are run where they are asked for.
"""
