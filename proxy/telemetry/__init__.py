"""What can be seen from outside: logs, metrics, traces. Nothing here ever holds a body, a key or a masked value."""
