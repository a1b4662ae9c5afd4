"""The pictures that commands draw: PNG, SVG or PDF by the file's suffix."""

from __future__ import annotations

from sdsim.report.agreement_plot import plot_steps
from sdsim.report.latency_plot import plot_latencies
from sdsim.report.prediction_plot import plot_predict
from sdsim.report.replay_plot import plot_replays
from sdsim.report.timeline_plot import plot_timeline

__all__ = ["plot_latencies", "plot_predict", "plot_replays", "plot_steps", "plot_timeline"]
