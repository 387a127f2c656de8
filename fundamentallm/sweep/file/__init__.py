"""The sweep file in W&B's format: reading it, and every mistake in it."""
