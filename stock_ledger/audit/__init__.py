"""The audit: what must be true of all that is stored, shown and told, held against facts gathered from outside."""
