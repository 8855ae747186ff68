"""Which batches are in the feed: a column with a constant default, and its index, made online."""

from __future__ import annotations

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import ProjectState


class AddIndexOnline(AddIndexConcurrently):
    """CONCURRENTLY where there are other writers; SQLite has one, and makes it the plain way.

    A build that was cut off leaves an index that is there and not valid: it goes first, so that
    the migration can be run again.
    """

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        if schema_editor.connection.vendor == "postgresql":
            schema_editor.execute(f'DROP INDEX CONCURRENTLY IF EXISTS "{self.index.name}"')
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        else:
            self._plainly.database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, from_state, to_state)
        else:
            self._plainly.database_backwards(app_label, schema_editor, from_state, to_state)

    @property
    def _plainly(self) -> migrations.AddIndex:
        return migrations.AddIndex(self.model_name, self.index)


class AddFieldWhole(migrations.AddField):
    """In a transaction of its own, though the migration has none.

    SQLite writes the table anew and drops the old one: a batch of another process that came in
    between would be lost.
    """

    atomic = True


class Migration(migrations.Migration):
    atomic = False  # CREATE INDEX CONCURRENTLY runs in no transaction

    dependencies = [
        ("telemetry", "0011_exports"),
    ]

    operations = [
        AddFieldWhole(
            model_name="ingestbatch",
            name="is_fed",
            field=models.BooleanField(db_default=False, default=False),
        ),
        AddIndexOnline(
            model_name="ingestbatch",
            index=models.Index(
                condition=models.Q(("is_fed", False)), fields=["id"], name="telemetry_batch_unfed"
            ),
        ),
    ]
