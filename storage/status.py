"""Why a source could not be used: the fixed vocabulary of the ``status`` column."""

STATUSES = (
    "ok",
    "no_file_name",  # the row names no file
    "missing_file",
    "unreadable_file",  # truncated, or not FITS
    "wrong_dimensions",  # neither 2-d nor degenerate 4-d
    "wrong_size",  # not square, or not the side of the survey
    "all_nan",
    "constant",
    "not_finite",  # an imported image with NaN or infinite pixels
    "no_wcs",  # a position or a pixel scale is needed and the header has none
    "bad_position",  # NaN or out-of-range coordinates
    "no_coverage",  # no image covers the position
    "duplicate_id",  # an earlier row has the same id
    "empty_mask",  # nothing above the threshold
    "no_noise",  # the noise could not be estimated
    "out_of_range",  # pixel values too large to be squared and added
    "bad_redshift",  # resampling needs a positive, finite redshift
)
"""Status names; the index is the code stored in the survey."""

CODES = {name: code for code, name in enumerate(STATUSES)}
