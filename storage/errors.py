"""What storage refuses, one class a cause; the message says what, both values and the remedy."""


class StorageError(Exception):
    """Base of every error storage raises on purpose."""


class PinkFormatError(StorageError):
    """A PINK binary file whose header or length contradicts the format."""


class CatalogueError(StorageError):
    """A catalogue that cannot be read, or lacks a column that is needed."""


class SurveyError(StorageError):
    """A survey store that is missing, of another version, or contradicts itself."""


class ImageInputError(StorageError):
    """Image files that are missing or unusable as a whole (one bad image is a status, not an error)."""


class PlaceError(StorageError):
    """A path or URL that cannot be used: unknown protocol, library not installed, no bucket, no permission."""


class StoreUnreachableError(PlaceError):
    """A remote store that did not answer until the deadline."""
