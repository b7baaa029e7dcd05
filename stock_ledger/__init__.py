"""The domain: decide (pure), the Postgres ledger (the truth), the Redis view, rebuild and audit."""
