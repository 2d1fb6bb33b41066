"""A classifier as bytes, without pickle: skops writes plain values and arrays, and names the types they belong to.

Reading makes objects of a closed list of types only, checks every one before the first is made, and refuses what
would take the memory or stack of the reader.
"""

import io
import json
import zipfile
from typing import Any, get_args

import numpy as np

from skysom.engine.errors import ReadingError
from skysom.engine.reading.classifiers import Classifier, Method

FORMAT_VERSION = 1
MOST_BYTES = 4 << 30
"""A file that unpacks to more is refused."""
MOST_DEPTH = 60
"""Levels of values within values; a forest has a dozen."""

TRUSTED = (
    "builtins.dict",
    "builtins.list",
    "builtins.str",
    "builtins.tuple",
    "numpy.float32",
    "numpy.float64",
    "numpy.int32",
    "numpy.int64",
    "numpy.ndarray",
    "numpy.random.mtrand.RandomState",
    "sklearn.calibration.CalibratedClassifierCV",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._forest.RandomForestClassifier",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.neighbors._classification.KNeighborsClassifier",
    "sklearn.neural_network._multilayer_perceptron.MLPClassifier",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.preprocessing._label.LabelBinarizer",
    "sklearn.svm._classes.SVC",
    "sklearn.tree._classes.DecisionTreeClassifier",
    "sklearn.tree._tree.Tree",
)
"""Types a classifier of this package is made of; no other is imported or made."""
LOADERS = (
    "DictNode", "JsonNode", "ListNode", "NdArrayNode", "ObjectNode", "RandomStateNode", "TreeNode", "TupleNode",
    "TypeNode",
)  # fmt: skip
"""Ways of skops to make them: none calls a function that the file names."""


def to_bytes(classifier: Classifier) -> bytes:
    """The classifier in the format of skops, for `from_bytes`."""
    import sklearn
    from skops.io import dumps

    content = {
        "format_version": FORMAT_VERSION,
        "sklearn": sklearn.__version__,
        "method": classifier.method,
        "classes": list(classifier.classes),
        "centre": classifier.centre,
        "scale": classifier.scale,
        "estimator": classifier.estimator,
    }
    return bytes(dumps(content, compression=zipfile.ZIP_DEFLATED))


def from_bytes(data: bytes) -> Classifier:
    """The classifier that `to_bytes` wrote.

    Raises
    ------
    ReadingError : bytes that are no such file, that name a type outside `TRUSTED`, that were written by another
    version of scikit-learn, or that contradict themselves.
    """
    from skops.io import loads

    names = _types_of(data)
    strange = sorted(names - set(TRUSTED))
    if strange:
        raise ReadingError(
            f"the classifier holds {', '.join(strange[:5])}, which no classifier of skysom does; it may be malicious: "
            "nothing of it was loaded; make it again with `skysom classify`"
        )
    try:
        content = loads(data, trusted=list(TRUSTED))
    except Exception as error:  # whatever skops and scikit-learn make of values that do not fit
        raise ReadingError(f"the classifier is damaged ({type(error).__name__}: {error}); make it again") from None
    return _checked(content)


def _types_of(data: bytes) -> set[str]:
    """Full names of all types a file names, found without making any object; ReadingError where it cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > MOST_BYTES:
                raise ReadingError(f"the classifier unpacks to {size:,} bytes, more than {MOST_BYTES:,}; make it again")
            schema = json.loads(archive.read("schema.json"))
    except ReadingError:
        raise
    except Exception as error:  # whatever zipfile, zlib and json make of damaged bytes
        what = f"the classifier cannot be read ({type(error).__name__}: {error})"
        raise ReadingError(f"{what}; make it again with `skysom classify`") from None
    names: set[str] = set()
    waiting: list[tuple[Any, int]] = [(schema, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise ReadingError(f"the classifier nests values more than {MOST_DEPTH} deep; make it again")
        if isinstance(value, dict):
            if "__loader__" in value or "__class__" in value or "__module__" in value:
                names.add(f"{value.get('__module__')}.{value.get('__class__')}")
                if value.get("__loader__") not in LOADERS:
                    names.add(f"skops loader {value.get('__loader__')}")
            waiting.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, list):
            waiting.extend((item, depth + 1) for item in value)
    return names


def _checked(content: Any) -> Classifier:
    """The classifier of a file's content, after checks of all that predictions index with."""
    import sklearn

    try:
        found, wanted = content["sklearn"], sklearn.__version__
        if content["format_version"] != FORMAT_VERSION:
            raise ReadingError(
                f"the classifier has format {content['format_version']!r}, this skysom reads {FORMAT_VERSION}; "
                "make it again with `skysom classify`"
            )
        if found.split(".")[:2] != wanted.split(".")[:2]:
            raise ReadingError(
                f"the classifier was made with scikit-learn {found}, here is {wanted}, which may read it otherwise; "
                "make it again with `skysom classify`, or install that version"
            )
        classifier = Classifier(
            content["method"], tuple(content["classes"]), content["centre"], content["scale"], content["estimator"]
        )
        sound = _is_sound(classifier)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, ReadingError):
            raise
        raise ReadingError(f"the classifier is damaged ({type(error).__name__}: {error}); make it again") from None
    if not sound:
        raise ReadingError("the classifier contradicts itself; make it again with `skysom classify`")
    return classifier


def _is_sound(classifier: Classifier) -> bool:
    """Whether sizes agree and no tree leads outside itself: compiled code would read other memory."""
    features, classes = len(classifier.centre), len(classifier.classes)
    calibrated = classifier.estimator.calibrated_classifiers_
    sound = (
        classifier.method in get_args(Method)
        and classifier.centre.shape == classifier.scale.shape == (features,)
        and np.isfinite(classifier.centre).all()
        and (classifier.scale > 0).all()
        and len(calibrated) == 1
        and np.array_equal(classifier.estimator.classes_, np.arange(classes))
        and calibrated[0].estimator.n_features_in_ == features
    )
    if not sound:
        return False
    inner = calibrated[0].estimator
    if classifier.method == "forest":
        return all(_tree_is_sound(tree.tree_, features, classes) for tree in inner.estimators_)
    if classifier.method == "svm":
        vectors = len(inner.support_vectors_)
        return inner.support_vectors_.shape[1] == features and inner.dual_coef_.shape == (classes - 1, vectors)
    if classifier.method == "knn":
        return inner._fit_X.shape == (len(inner._y), features) and int(np.max(inner._y)) < classes
    return True


def _tree_is_sound(tree: Any, features: int, classes: int) -> bool:
    """Children come after their parent and within the tree, and test features there are."""
    left, right, count = tree.children_left, tree.children_right, tree.node_count
    inner, here = left != -1, np.arange(count)
    return bool(
        tree.n_features == features
        and tree.value.shape == (count, 1, classes)
        and np.array_equal(inner, right != -1)
        and ((left > here) & (left < count) & (right > here) & (right < count) | ~inner).all()
        and ((tree.feature >= 0) & (tree.feature < features) | ~inner).all()
    )
