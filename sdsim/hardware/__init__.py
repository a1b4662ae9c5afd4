"""The simulator's schedulers and policies on real hardware.

`executor` runs steps on this GPU: a full target and a draft (`model`) on the checkout's `kernels/`. With it,
`simulation.run_on_gpu` runs a scenario and `python -m sdsim.hardware.points` times single steps; `generation` verifies
drafts with the target's own argmax. These need torch, triton and a checkout; the rest of sdsim imports them when it
runs them only.
"""

from __future__ import annotations
