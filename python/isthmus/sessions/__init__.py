"""Conversations whose KV caches outlive the process: what is kept on disk, and who may use it."""
