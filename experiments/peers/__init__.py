"""How fast is each kernel beside other implementations of the same work, on this machine?

    python -m experiments.peers --works=all --out=results/peers

Ours and theirs alternate in one process, with as many threads each and inputs in the layout that each asks for;
outputs (and gradients, where they are timed) are compared first. A ratio is their time over ours, of each pair of
neighbours in time; its median and quartiles count, since a machine's seconds do not. A package that is not installed
is a row with the reason (`pip install -e '.[experiments,peers]'`). All works take about ten minutes on two cores.
"""
