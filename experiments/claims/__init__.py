"""What is said of attention, put to the test; one figure each.

    python -m experiments.claims --claims=speed,recall,regression --out=results/claims

speed: "attention trains 10 to 100 times faster than a recurrent network, because positions run in parallel". Tokens per
second of a training step of a GRU and of each kernel, at one number of tokens whatever the length. (A minute.)

recall: "beyond 200 words a recurrent network keeps 20% of the beginning". Share of the first eight tokens that a GRU,
an LSTM and each kernel say again after noise of each distance; a model learns all distances in turns. (About two
minutes a model.)

regression: "attention is kernel regression". Nadaraya and Watson's estimate of a noisy curve as attention, and what the
bandwidth does to its error. (Seconds.)

Times are of two cores. Models have about as many parameters, which rows tell; fewer than five seeds support no claim.
"""
