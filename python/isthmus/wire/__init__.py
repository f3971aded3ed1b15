"""The wire, sans-IO: frames, the msgpack and JSON codecs, and the shapes of messages."""
