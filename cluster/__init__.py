"""Where and how it runs: executors, the shard pass, the ledger, locks."""
