"""Many small calls become few batches: the hosts' window and the runtime's lanes."""
