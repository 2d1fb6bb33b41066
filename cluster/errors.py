"""What the cluster layer refuses or gives up on, one class a cause."""


class ClusterError(Exception):
    """Base of every error the cluster layer raises on purpose."""


class LockedError(ClusterError):
    """Another run holds the output."""


class FencedError(ClusterError):
    """Another run has taken the output over."""


class LedgerError(ClusterError):
    """A ledger that belongs to another configuration or cannot be read."""


class PassError(ClusterError):
    """A shard failed after all its retries, or a deadline passed."""


class SchedulerError(ClusterError):
    """A Dask scheduler that is not known, not installed, or does not answer."""


class LaunchError(ClusterError):
    """A cluster file was asked for with a value that cannot be written into it."""
