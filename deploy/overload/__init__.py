"""More load than can be sustained, and restarts under load: what is kept, what is turned away, what it costs."""
