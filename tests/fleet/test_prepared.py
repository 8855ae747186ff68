"""Prepared reads give what the ORM gives, in one query, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from django.db.models import Q

from fleet.lib.prepared import PreparedFirst
from fleet.models import Install, InstallCredential
from tests.builders import enroll_one, make_install

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
by_key = PreparedFirst(
    lambda key: InstallCredential.objects.select_related("install").filter(key_id=key), "key"
)
by_pk = PreparedFirst(lambda pk: Install.objects.filter(pk=pk), UUID(int=1))
of_two = PreparedFirst(
    lambda first, second: Install.objects.filter(Q(pk=first) | Q(pk=second)).order_by(
        "-machine_id"
    ),
    UUID(int=1),
    UUID(int=2),
)


def test_every_field_is_what_the_orm_reads() -> None:
    install = make_install()
    found = by_pk(install.pk)
    assert found is not None
    expected = Install.objects.get(pk=install.pk)
    assert found == expected
    names = [field.attname for field in Install._meta.concrete_fields]
    assert [getattr(found, name) for name in names] == [getattr(expected, name) for name in names]
    assert not found._state.adding


def test_a_related_row_comes_in_the_same_query(
    django_assert_num_queries: Callable[[int], object],
) -> None:
    enroll_one()
    credential = InstallCredential.objects.get()
    with django_assert_num_queries(1):  # type: ignore[attr-defined]  # a context manager
        found = by_key(credential.key_id)
        assert found is not None
        assert found.install.pk == credential.install_id
    expected = InstallCredential.objects.select_related("install").get(pk=credential.pk)
    assert (found.scopes, found.digest) == (expected.scopes, expected.digest)
    assert vars(found.install) | {"_state": None} == vars(expected.install) | {"_state": None}


def test_nothing_found_is_none() -> None:
    assert by_pk(uuid4()) is None


def test_parameters_keep_their_places_and_the_order_its_say() -> None:
    first, second = make_install(machine_id="a" * 64), make_install(machine_id="b" * 64)
    for parameters in ((first.pk, second.pk), (second.pk, first.pk)):
        assert of_two(*parameters) == second
    assert of_two(first.pk, uuid4()) == first


def test_a_row_that_changed_is_read_as_it_is_now() -> None:
    install = make_install()
    assert by_pk(install.pk) is not None
    Install.objects.filter(pk=install.pk).update(machine_id="c" * 64)
    found = by_pk(install.pk)
    assert found is not None
    assert found.machine_id == "c" * 64
