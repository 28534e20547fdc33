"""Axes of figures, and where their ticks stand and how they read."""

from __future__ import annotations

import math

from matplotlib import ticker

from experiments.show.units import seconds_text, size_text


def lengths_axis(panel, lengths) -> None:
    """A logarithmic axis of sequence lengths, a tick at each."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=30, ha="right")
    if len(lengths) == 1:  # a logarithmic axis finds no limits around one point
        panel.set_xlim(lengths[0] / 2, 2 * lengths[0])
    panel.minorticks_off()
    panel.set_xlabel("sequence length")


def devices_axis(panel, counts) -> None:
    """A logarithmic axis of numbers of devices, a tick at each."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(counts, [f"{count:,}" for count in counts])
    panel.minorticks_off()
    panel.set_xlabel("devices")


def seconds_axis(panel) -> None:
    """A logarithmic axis of seconds, once everything is drawn."""
    _log_axis(panel, 10, ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)), seconds_text)


def bytes_axis(panel) -> None:
    """A logarithmic axis of bytes, once everything is drawn."""
    _log_axis(panel, 2, ((1.0,),), size_text)


def sizes_axis(panel) -> None:
    """A logarithmic horizontal axis of bytes, once everything is drawn: two powers of two at least, five at most."""
    panel.set_xscale("log", base=2)
    low, high = map(math.log2, panel.get_xlim())
    if math.floor(high) - math.ceil(low) < 1:
        low, high = min(low, math.ceil(low) - 1.05), max(high, math.floor(high) + 1.05)
    powers = range(math.ceil(low), math.floor(high) + 1)
    ticks = [2.0**power for power in powers[:: -(-len(powers) // 5)]]
    panel.set_xticks(ticks, list(map(size_text, ticks)))
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    panel.set_xlim(2**low, 2**high)


def rates_axis(panel) -> None:
    """A horizontal axis from 0 of how much of something is done in a second, such as 100k, once everything is drawn."""
    panel.xaxis.set_major_locator(ticker.MaxNLocator(6))
    panel.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    panel.set_xlim(0, 1.12 * panel.dataLim.x1)


def plain_ticks(axis) -> None:
    """Plain numbers on a logarithmic axis, as many as its decades leave room for, once everything is drawn."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    subdivisions = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.2 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    ticks = ticker.LogLocator(base=10, subs=subdivisions, numticks=9).tick_values(low, high)
    inside = [tick for tick in ticks if low <= tick <= high]
    axis.set_major_locator(ticker.FixedLocator(inside) if len(inside) > 2 else ticker.MaxNLocator(4))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))


def bytes_ticks(panel) -> None:
    """Three ticks or more on a logarithmic axis of bytes, once everything is drawn: those between powers of two where
    there are few of these."""
    bytes_axis(panel)
    low, high = panel.get_ylim()
    for subdivisions in ((1.0, 1.5), (1.0, 1.25, 1.5, 1.75)):
        if len(panel.get_yticks()) < 3:
            ticks = ticker.LogLocator(base=2, subs=subdivisions, numticks=9).tick_values(low, high)
            panel.set_yticks([tick for tick in ticks if low <= tick <= high])
    panel.set_ylim(low, high)


def _log_axis(panel, base, subdivisions, text):
    """As many subdivisions of a power of `base` as leave at most eight ticks."""
    panel.set_yscale("log", base=base)
    low, high = panel.get_ylim()
    for subs in subdivisions:
        locator = ticker.LogLocator(base=base, subs=subs, numticks=9)
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
        if len(ticks) <= 8:
            panel.yaxis.set_major_locator(ticker.FixedLocator(ticks))
    panel.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: text(value)))
    panel.yaxis.set_minor_locator(ticker.NullLocator())
    panel.set_ylim(low, high)
