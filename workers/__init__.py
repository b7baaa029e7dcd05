"""The streams: partition writers (aiokafka, in batches) and the Faust application for per-event work."""
