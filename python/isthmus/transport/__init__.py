"""Claimed pipes, the ordered writer and the parent watch: bytes to and from the host."""
