"""The admin port: health, metrics, JSON API."""
