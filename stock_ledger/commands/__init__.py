"""What becomes of commands: pure decisions over a book of loaded state."""
