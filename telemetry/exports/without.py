"""rewrite_without(): a Parquet file without the rows that name somebody, replaced whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from pathlib import Path


def rewrite_without(path: Path, column: str, values: Collection[str]) -> int:
    """Remove the rows whose column is one of some values; how many there were.

    A row group at a time, so that memory does not grow with the file. The file is replaced at once,
    or left as it was. Errors: OSError, and pyarrow's for a file that is none.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    gone = 0
    wanted = pa.array(sorted(values), pa.string())
    try:
        with parquet.ParquetFile(path) as source:
            schema = source.schema_arrow
            with parquet.ParquetWriter(part, schema, compression="zstd") as target:
                for number in range(source.num_row_groups):
                    group = source.read_row_group(number)
                    # A row that names nobody stays: null is in no set.
                    kept = group.filter(pc.invert(pc.is_in(group[column], value_set=wanted)))
                    gone += group.num_rows - kept.num_rows
                    target.write_table(kept)
        if gone:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
            part.chmod(0o600)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return gone
