"""What the jobs refuse, one class a cause."""

from skysom.cluster.errors import ClusterError
from skysom.engine.errors import EngineError
from skysom.storage.errors import StorageError


class JobError(Exception):
    """Base of every error a job raises on purpose."""


class ConfigError(JobError):
    """A configuration that is invalid, or contradicts what the output already holds."""


class MissingStageError(JobError):
    """A stage was asked for whose input stage has not run."""


SkysomErrors = (EngineError, StorageError, ClusterError, JobError)
"""Everything a user may see as one sentence instead of a traceback."""
