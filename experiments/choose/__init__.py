"""Which attention for this length, on this device, in this memory?

    python -m experiments.choose --length=16384 --causal --decode --memory=8G --device=h100

Every kernel of the catalogue, the fastest first, with the time and memory of one layer's attention, what it loses,
and from what each is known: a row measured on the device, a program that was compiled for it, or the formulas alone;
what is a bound is marked so. Of equal times what loses less comes first, and starred are kernels beside which nothing
is as fast and loses less. The first stands there as code, with what it loses, and the first that loses nothing.

Where rows are of several implementations, that of the fastest stands beside the kernel and in the code; rows of
operands as a layer's projections leave them and of arrays of heads count alike, and say so. A kernel that ends before
the length by a field of its own is ranked with one that serves. What cannot serve, or does not fit, says why. Nothing
is run or compiled; it takes about a minute.
"""
