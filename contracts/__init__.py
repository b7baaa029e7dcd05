"""What crosses a border: messages, outcomes, topics, keys, settings, errors. Opens no connection."""
