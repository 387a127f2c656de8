"""A server that speaks enough of W&B's protocol for the real client: a test fixture, no product.

`wandb sweep`, `wandb agent`, `wandb.init`, `wandb sync` and `wandb.Api` run against it unchanged;
what they sent lies in `WandbServer.store`, for a test to compare. It binds loopback only.

What it does not prove: that W&B's own server answers alike. The requests are the client's, so
they are real; the answers are our reading of what the client accepts. In particular these are
read from W&B's documentation and its users' reports alone: when a preempted run is handed out
again, and that it is with its whole config (wandb issues 4237 and 9143), what a sweep's
`stop`, `cancel` and `pause` do to its runs, how hyperband counts its bands, which state a run
ends in, and that a step which `wandb sync` sends a second time replaces the first.
Nothing here limits rates, checks permissions, or delays what was written.

`store` holds what the server knows, `graphql` answers questions about it, `sweeps` decides what
an agent is told, `http` is the listener, with faults on demand.
"""

from wandb_server.http import WandbServer
from wandb_server.store import Run, Store, Sweep

__all__ = ["Run", "Store", "Sweep", "WandbServer"]
