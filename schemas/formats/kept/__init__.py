"""Kept columns: what stood beside the images in the input, carried along with their rows.

An image's values travel as text, in ``ImageRef.columns``: a JSON object with sorted names and without nulls. The cells
of CSV have no types; an object of cells has a mark before it, and its types are inferred from all cells of the listing.
A store keeps each row's text in ``columns/``, beside a struct of its typed values. Where the types of a snapshot are
others than those of a file, as a later listing has other values, readers make the struct again from the text. What the
image file says of itself (``--keep-exif``) is a struct of its own, which does not depend on the listing.
"""

from captionbeam.schemas.formats.kept.kinds import (
    Types,
    kept_type,
    merged,
    plain_values,
    schema_of,
    schema_text,
    without_nulls,
)
from captionbeam.schemas.formats.kept.tables import (
    EXIF,
    HASH,
    ROW,
    TEXT,
    VALUES,
    exif_in,
    kinds_in,
    shown_names,
    struct_of,
    table_of,
    values_in,
    with_exif,
)
from captionbeam.schemas.formats.kept.values import (
    CELLS,
    EMPTY,
    MOST_BYTES,
    columns_hash,
    combined,
    empty_columns,
    empty_places,
    lacking,
    largest,
    packed,
    packed_cells,
    selected,
    unpacked,
    used_values,
)

__all__ = [
    "CELLS",
    "EMPTY",
    "EXIF",
    "HASH",
    "MOST_BYTES",
    "ROW",
    "TEXT",
    "VALUES",
    "Types",
    "columns_hash",
    "combined",
    "empty_columns",
    "empty_places",
    "exif_in",
    "kept_type",
    "kinds_in",
    "lacking",
    "largest",
    "merged",
    "packed",
    "packed_cells",
    "plain_values",
    "schema_of",
    "schema_text",
    "selected",
    "shown_names",
    "struct_of",
    "table_of",
    "unpacked",
    "used_values",
    "values_in",
    "with_exif",
    "without_nulls",
]
