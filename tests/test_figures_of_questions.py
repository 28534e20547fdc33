"""What figures of questions say: no line hidden, a note for what is missing, guides apart, digits that are known."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.approximation import plot as approximation
from experiments.claims import plot as claims
from experiments.compiled import analysis as programs
from experiments.compiled import plot as compiled
from experiments.decoding import plot as decoding
from experiments.disputes import cases
from experiments.disputes import plot as disputes
from experiments.learnability import plot as learnability
from experiments.scaling import analysis, plot, plot_devices
from experiments.scaling.analysis import Exponent
from experiments.show import figures
from experiments.throughput import plot as throughput

WHERE = {"device": "a CPU", "cores": 2, "platform": "cpu", "dtype": "float32", "heads": 2, "head_dim": 4, "seed": 0}
SIDE_BY_SIDE = "Lines that would cover each other are drawn side by side."


@pytest.fixture
def saved(monkeypatch):
    """Figures by the name of their file."""
    found = {}
    monkeypatch.setattr(figures, "save", lambda figure, stem: found.update({stem.name: figure}))
    yield found
    for figure in found.values():
        plt.close(figure)


def labels(panel):
    return [text.get_text() for text in panel.texts]


@pytest.mark.parametrize(
    ("exponent", "told"),
    [
        (None, ""),
        (Exponent(0.966, 0.92, 1.01), "  $T^{0.97}$"),
        (Exponent(1.33, 1.14, 1.52), "  $T^{1.3}$ [1.1, 1.6]"),
        (Exponent(0.99, 0.83, 1.15), "  $T^{1.0}$ [0.8, 1.2]"),
        (Exponent(2.0, 1.93, 2.07), "  $T^{2.0}$ [1.9, 2.1]"),
    ],
)
def test_exponents_have_the_digits_that_are_known(exponent, told):
    assert plot._growth(exponent) == told


def scaled(kernel, name, length, **found):
    shared = {"pass": "forward", "batch": 1, "num_kv_heads": 2, "is_causal": False, "repeats": 5, "status": "measured"}
    seconds = {"median": length / 1e6, "quartiles": [length / 1.1e6, length / 0.9e6], "temporary_bytes": 64 * length}
    return (
        WHERE
        | shared
        | {"kernel": kernel, "name": name, "length": length, "seconds": [length / 1e6] * 5}
        | seconds
        | found
    )


def test_memory_that_was_planned_is_not_called_predicted(saved, tmp_path):
    rows = [scaled(kernel, kernel[:-2].lower(), n) for kernel in ("Softmax()", "Linear()") for n in (16, 32, 64)]
    skipped = {"status": "skipped", "reason": "would take 9 s", "predicted_seconds": 9.0}
    late = {
        name: value for name, value in scaled("Softmax()", "softmax", 128).items() if name not in ("median", "seconds")
    }
    rows.append(late | skipped)
    plot.draw(rows, analysis.summarise(rows), tmp_path)
    said = saved["time_forward"].get_supxlabel()
    assert "times are predicted, memory is planned as elsewhere" in said and SIDE_BY_SIDE in said
    assert "95% interval where it is wider than 0.1" in said


def test_what_is_ideal_stands_below_all_lines_and_what_has_no_time_is_told(saved, tmp_path):
    rows = [
        scaled("Linear()", "linear", length, devices=count, mesh=f"sequence={count}", sent_bytes=32 * (count - 1))
        | {"temporary_bytes": 64 * length / count}
        for length, count in ((64, 1), (64, 2), (64, 4), (16, 1), (32, 2))
    ]
    late = {"status": "skipped", "reason": "would take 89.8 s, the budget is 60 s"}
    rows[2] = {name: value for name, value in rows[2].items() if name not in ("median", "quartiles")} | late
    plot_devices.draw(rows, tmp_path)
    figure = saved["devices_forward"]
    assert "Linear on 4 devices: skipped, would take 89.8 s, the budget is 60 s." in figure.get_supxlabel()
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert "memory that the compiler plans" in titles
    for panel, title in zip(figure.axes, titles, strict=True):
        if "sent" not in title:
            *drawn, guide = (line for line in panel.lines if len(line.get_xdata()) > 1)
            ideal = dict(zip(*guide.get_data(), strict=True))
            assert all(y > 1.2 * ideal[x] for line in drawn for x, y in zip(*line.get_data(), strict=True))
            assert labels(panel) == ["ideal"] and ("memory" not in title or len(panel.get_yticks()) >= 3)


def timed(name, width, length, status="measured", **found):
    cell = WHERE | {"kernel": "Softmax()", "implementation": name, "head_dim": width, "length": length, "tokens": 128}
    return cell | {"pass": "forward", "is_causal": True, "status": status, "flops_per_second": 1e12 * length} | found


@pytest.mark.parametrize("limit", [None, "memory"])
def test_crosses_are_named_where_there_are_any_and_what_was_not_run_is_told(limit):
    late = {"status": "not run", "reason": "no time left. More"}
    rows = [timed("attnzoo", 64, 16), timed("attnzoo", 64, 32, **late), timed("jax.nn", 64, 16)]
    rows += [timed("jax.nn", 64, 32, "refused", reason="too large", limit=limit)] if limit else []
    rows += [timed("torch flex", 64, n, "refused", reason="cuDNN is not detected") for n in (16, 32)]
    rows += [timed(name, 128, n, **late) for name in ("attnzoo", "jax.nn") for n in (16, 32)]
    notes = throughput._notes(rows)
    assert ("Crosses: does not fit in memory." in notes) == (limit is not None)
    assert notes[-2:] == [
        "Not run, no time left: attnzoo with heads of 64 at 32 tokens; attnzoo, jax.nn with heads of 128.",
        "Refused, cuDNN is not detected: torch flex with heads of 64.",
    ]
    figure = throughput._figure(rows, {}, "forward")
    assert figure.get_suptitle().endswith("128 tokens, 2 heads, causal")
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["heads of 64", "heads of 128"]
    plt.close(figure)


def test_states_of_one_size_are_all_in_sight(saved, tmp_path):
    rows = [
        WHERE | {"kernel": kernel, "name": kernel[:-2].lower(), "context": n, "batch": 1, "status": "measured"}
        | {"token_seconds": n * cost, "tokens": 1, "quartiles": [n * cost] * 2, "state_bytes": 64 * n}
        for kernel, cost in (("Softmax()", 1e-6), ("Additive()", 1e-4)) for n in (16, 32)
    ]  # fmt: skip
    decoding.draw(rows, [], tmp_path)
    figure = saved["decoding"]
    assert SIDE_BY_SIDE in figure.get_supxlabel()
    times, sizes = ([line.get_transform().transform(line.get_xydata()[0]) for line in x.lines] for x in figure.axes)
    assert abs(sizes[0][1] - sizes[1][1]) > 1 and abs(times[0][1] - times[1][1]) > 20


def test_claims_have_ticks_to_read_and_no_line_is_hidden(saved, tmp_path):
    kernels = {"gru": "gru", "Softmax()": "softmax", "Linear()": "linear"}
    about = WHERE | {"tokens": 64, "width": 8, "steps": 2, "status": "measured", "distances": [4, 8]}
    rows = [
        about | {"claim": "speed", "kernel": kernel, "name": name, "length": n, "tokens_per_second": 1e3 * 5**place * n}
        for place, (kernel, name) in enumerate(kernels.items()) for n in (1, 2)
    ]  # fmt: skip
    rows += [
        about | {"claim": "recall", "kernel": kernel, "name": name, "accuracies": [name != "gru", 1.0]}
        for kernel, name in kernels.items()
    ]
    claims.draw(rows, tmp_path)
    [panel] = saved["speed"].axes
    ticks = [tick for tick in panel.get_yticks() if panel.get_ylim()[0] <= tick <= panel.get_ylim()[1]]
    assert len(ticks) >= 3 and "10,000" in [panel.yaxis.get_major_formatter()(tick, 0) for tick in ticks]
    assert SIDE_BY_SIDE in saved["recall"].get_supxlabel()


@pytest.mark.parametrize("positions", [("NoPositions()",), ("NoPositions()", "Rotary()")])
def test_what_all_lines_share_is_told_once(saved, tmp_path, positions):
    rows = [
        {"task": "MQAR()", "task_name": "mqar", "kernel": kernel, "name": name, "positions": each, "length": 16,
         "width": 8, "steps": 8, "solved": 0.9, "learning_rate": rate, "seed": 0, "status": "measured",
         "solved_at": 4, "validations": [[4, -0.95]], "step_flops": 1e10}
        for kernel, name in (("Softmax()", "softmax"), ("Linear()", "linear")) for each in positions
        for rate in (1e-3, 1e-2, 1e-1)
    ]  # fmt: skip
    learnability.draw(rows, tmp_path)
    figure = saved["learnability_mqar"]
    shares, operations = figure.axes
    is_shared = len(positions) == 1
    names = {text.partition(":")[0] for text in labels(shares)}
    assert names >= ({"Softmax", "Linear"} if is_shared else {"Softmax, Rotary", "Linear, NoPositions"})
    assert ("NoPositions" in figure.get_suptitle()) == is_shared and SIDE_BY_SIDE in figure.get_supxlabel()
    assert operations.get_title(loc="left") == "billions of operations until half of the seeds have"
    told = [axis.get_major_formatter()(1e-3, 0) for axis in (shares.xaxis, operations.yaxis)]
    assert told == ["0.001", "0.001"]


def test_a_contender_has_the_colour_of_its_kernel_and_a_fill_of_its_own():
    for dispute in cases.DISPUTES.values():
        found = disputes.contender_styles(list(dispute.contenders))
        assert len({(style["color"], style["fillstyle"]) for style in found.values()}) == len(dispute.contenders)
        for text in found.keys() & {"linear", "softmax", "gated_delta", "log_linear"}:
            assert (found[text]["color"], found[text]["marker"]) == figures.look(text)
    found = disputes.contender_styles([cases.HYBRID, cases.FULL, cases.SUMS])
    assert found[cases.HYBRID]["color"] == found[cases.SUMS]["color"] == figures.look("linear")[0]
    assert found[cases.SUMS]["fillstyle"] == "full" != found[cases.HYBRID]["fillstyle"]
    assert disputes._name(cases.WIDE) == "sliding_window(left=95, right=0),\nsoftmax, in turns"


def program(kernel, name, implementation, launches, moved, **found):
    row = {"kernel": kernel, "name": name, "implementation": implementation, "target": "h100", "pass": "forward"}
    row |= {"length": 32, "batch": 1, "heads": 2, "num_kv_heads": 2, "head_dim": 4, "dtype": "bfloat16", "jax": "1"}
    row |= {"operands": "heads", "is_causal": True, "status": "compiled", "compiler": "c", "flops": None}
    return row | {"launches": launches, "moved_bytes": moved, "least_bytes": 10} | found


def test_each_kernel_has_a_line_and_each_implementation_a_dot(saved, tmp_path):
    rows = [
        program("Softmax()", "softmax", "auto", 1, 10), program("Softmax()", "softmax", "xla", 90, 5000),
        program("Softmax()", "softmax", "pallas", 2, 11), program("Linear()", "linear", "auto", 2, 100),
    ]  # fmt: skip
    assert [programs.route(row) for row in rows] == ["cudnn", "xla", "pallas", "xla"]
    assert programs.route(rows[0] | {"target": "v5e"}) == programs.route(rows[0] | {"launches": 90}) == "xla"
    compiled.draw(rows + [row | {"length": 16, "moved_bytes": 7e6} for row in rows], tmp_path)
    [panel] = saved["h100_causal"].axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["Softmax", "Linear"]
    shades = {color: name for name, color, _ in compiled.ROUTES.values()}
    dots = [
        (shades[line.get_color()], *np.ravel(line.get_data())) for line in panel.lines if line.get_color() in shades
    ]
    assert {(name, ratio) for name, ratio, _ in dots} == {
        ("cuDNN", 1),
        ("XLA", 500),
        ("our kernel (pallas)", 1.1),
        ("XLA", 10),
    }
    assert len({place for _, _, place in dots}) == 4, "dots of one kernel stand apart"
    assert {"h100_causal", "h100_causal_lengths"} == set(saved)


def test_lines_against_length_are_few(saved, tmp_path):
    many = [program(f"K{n}()", f"k{n}", "xla", 3, 20, length=length) for n in range(9) for length in (16, 32)]
    compiled.draw(many, tmp_path)
    assert set(saved) == {"h100_causal"} and len(saved["h100_causal"].axes[0].get_yticks()) == 9


def test_values_of_a_dial_are_its_least_and_its_greatest():
    row = {"name": "performer", "dial": "performer", "ratio": 0.5, "output": [0.2]}
    rows = [row | {"terms": value, "value": value} for value in (16, 32, 512)]
    rows.append(row | {"name": "linear", "dial": "linear", "terms": None, "value": None})
    assert [text for text, *_ in approximation._values(rows)] == ["16", "512"]
