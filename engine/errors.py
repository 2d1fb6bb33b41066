"""What the engine refuses, one class a cause; the message says what, both values and the remedy."""


class EngineError(ValueError):
    """Base of every error the engine raises on purpose."""


class GeometryError(EngineError):
    """Image, neuron, region or rotations do not fit together."""


class ShapeError(EngineError):
    """An array has not the shape the function needs."""


class LatticeError(EngineError):
    """A lattice that cannot be built, or does not hold as many neurons as the map."""


class NeighbourhoodError(EngineError):
    """A neighbourhood function with parameters outside its domain."""


class PreprocessError(EngineError):
    """A preprocessing step with parameters outside its domain."""


class ReadingError(EngineError):
    """A map or a mapping cannot be read as asked: labels, masks, choices or sides that do not fit it."""


class CollationError(EngineError):
    """Components cannot be collated as asked: labels, actions, orders, positions or frames that do not fit."""
