"""The long-lived runtime: reads messages, routes requests, owns every task, drains and goes."""
