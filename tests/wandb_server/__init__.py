"""A test server that speaks enough of W&B's protocol for the real client.

`wandb sweep`, `wandb agent`, `wandb.init`, `wandb sync` and `wandb.Api` run against it unchanged.
Tests compare what they sent, in `WandbServer.store`. It binds loopback only.

It does not prove that W&B's own server answers in the same way. The requests are real; the answers
are our reading of what the client accepts. Only W&B's docs and its users' reports tell us:

- when a preempted run is queued again, with its whole config (wandb issues 4237 and 9143);
- how `stop`, `cancel` and `pause` of a sweep act on its runs, and in which state a run ends;
- how hyperband counts its bands;
- how a run that `wandb sweep-scheduler` enqueues reaches an agent, whether `run_cap` or the end of
  the sweep keeps it from one, and in which order the scheduler reads the runs of a sweep;
- that a step which `wandb sync` sends twice replaces the first.

The server limits no rates, checks no permissions, and delays no writes.

`store` holds the data, `graphql` answers queries, `sweeps` commands agents, and `http` listens,
with faults on demand.
"""

from wandb_server.http import WandbServer
from wandb_server.store import Run, Store, Sweep

__all__ = ["Run", "Store", "Sweep", "WandbServer"]
