"""Which attention for this length, on this device, in this memory?

    python -m experiments.choose --length=16384 --causal --decode --memory=8G --device=h100

Every kernel of the catalogue, the fastest first, with the time and memory of one layer's attention, what it loses,
and from which row each is known: a row measured on the device, a program that was compiled for it, or the formulas
alone. Where rows are of several implementations, that of the fastest stands beside the kernel and in the code; rows
of operands as a layer's projections leave them and of arrays of heads count alike, and say so. What cannot serve, or
does not fit, comes last and says why. Nothing is run or compiled; it takes about a minute.
"""
