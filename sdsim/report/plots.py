"""The pictures that commands draw: PNG, SVG or PDF by the file's suffix."""

from __future__ import annotations

from sdsim.report.latency_plot import plot_latencies
from sdsim.report.prediction_plot import plot_predict
from sdsim.report.timeline_plot import plot_timeline

__all__ = ["plot_latencies", "plot_predict", "plot_timeline"]
