"""How far from exact softmax is each approximation, what does its dial buy, and what does that cost in time?

    python -m experiments.approximation --out=runs/approximation [--checkpoint=runs/compare/accuracy]

The error of the output and of the attention matrix against features (Performer), landmarks (Nystrom), rank (Linformer),
window and random blocks (BigBird), and against run time, which is what a user trades. Operands are normal numbers at
several temperatures of the scores, and queries, keys and values of every layer and head of a softmax language model on
unseen text, under the model's own masking; without --checkpoint `experiments.accuracy` trains one, into `model`.

Theory gives one rate: the relative variance of m positive random features is (exp(|q + k|^2 / sqrt(H)) - 1) / m
(Choromanski et al. 2021, arXiv:2009.14794, lemma 2), so that errors fall as 1/sqrt(m) once m exceeds the exponential,
and not before. It is drawn through Performer's errors. For the others no line is drawn: the bounds for landmarks,
windows and blocks depend on the matrix, and Linformer's theorem (1/sqrt(rank), Wang et al. 2020, arXiv:2006.04768) is
for projections scaled by a vanishing factor, which neither `init` nor training gives.

Linformer's projections are learned, and here they are those of `init`: its error is what training has to remove, not
what a trained model has. `mean of values` is attention that weighs all keys alike: what lies above that line has lost
to ignoring the queries.

About four minutes on two cores.
"""
