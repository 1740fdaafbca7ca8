"""Archives that are damaged: their images fail one by one, and nothing worse happens."""

import os
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionbeam.pipelines.fetch.byte_ranges import FetchOptions
from captionbeam.pipelines.sources.images import fetch
from captionbeam.schemas.errors import SourceError
from tests.builders.data.sources import (
    codes,
    listed,
    make_parquet,
    make_tar,
    make_zip,
    picture,
    zip_with_local_extra,
)

PICTURES = {f"{name}.jpg": picture(name, 700) for name in "abcdef"}


def flip(path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 0xFF
    path.write_bytes(raw)


class TestDamagedArchives:
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_a_flipped_bit_costs_its_member_alone(self, tmp_path, method):
        path = make_zip(tmp_path / "x.zip", {"a.jpg": os.urandom(500), "b.jpg": os.urandom(500)}, method)
        refs, _ = listed(path)
        flip(path, refs[0].offset + 100)
        assert codes(fetch(refs)) == ["decode", "ok"]

    def test_members_beyond_a_cut_are_truncated(self, tmp_path):
        for path in (make_zip(tmp_path / "x.zip", PICTURES), make_tar(tmp_path / "x.tar", PICTURES)):
            refs, _ = listed(path)
            os.truncate(path, refs[4].offset + 200)
            assert codes(fetch(refs)) == ["ok"] * 4 + ["truncated"] * 2

    def test_a_bomb_is_not_inflated_beyond_what_the_directory_declares(self, tmp_path):
        path = make_zip(tmp_path / "x.zip", {"a.jpg": b"\0" * 50_000_000}, zipfile.ZIP_DEFLATED)
        (ref,) = listed(path)[0]
        honest, lying = fetch([ref, ref._replace(size=1000)], FetchOptions(max_bytes=1_000_000))
        assert (honest.code, lying.code) == ("too_large", "decode")
        assert lying.message.endswith("holds 1001 bytes, not 1000 as the archive says")

    def test_a_local_header_longer_than_any_guess_is_read_a_second_time(self, tmp_path):
        data = os.urandom(3000)
        refs, _ = listed(zip_with_local_extra(tmp_path / "x.zip", "a.jpg", data, extra=60_000))
        assert fetch(refs) == [data]

    @pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.parquet"])
    def test_a_container_that_is_gone_stops_the_job(self, tmp_path, name):
        make_zip(tmp_path / "x.zip", PICTURES)
        make_tar(tmp_path / "x.tar", PICTURES)
        make_parquet(tmp_path / "x.parquet", {"image": list(PICTURES.values())})
        refs, _ = listed(tmp_path / name)
        (tmp_path / name).unlink()
        with pytest.raises(SourceError, match=rf"{name}' cannot be read \(not_found\)"):
            fetch(refs)

    def test_damaged_pages_cost_their_row_group_alone(self, tmp_path):
        path = make_parquet(tmp_path / "x.parquet", {"image": list(PICTURES.values())}, row_group=2)
        refs, _ = listed(path)
        for offset in range(6, 30):
            flip(path, offset)
        refs = [ref._replace(version=f"damaged:{i}") for i, ref in enumerate(refs)]
        assert codes(fetch(refs)) == ["decode", "decode", "ok", "ok", "ok", "ok"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> list:
    root = tmp_path_factory.mktemp("archives")
    return [
        make_zip(root / "stored.zip", PICTURES),
        make_zip(root / "deflated.zip", PICTURES, zipfile.ZIP_DEFLATED),
        make_tar(root / "x.tar", PICTURES),
        make_parquet(root / "x.parquet", {"id": list(PICTURES), "image": list(PICTURES.values())}),
    ]


@given(data=st.data())
def test_no_damage_is_worse_than_a_refused_source_or_failed_images(archives, data):
    path = data.draw(st.sampled_from(archives))
    raw = bytearray(path.read_bytes())
    places = st.integers(0, len(raw) - 1)
    for place, bits in data.draw(st.lists(st.tuples(places, st.integers(1, 255)), max_size=4)):
        raw[place] ^= bits
    damaged = path.with_name(f"damaged-{path.name}")
    damaged.write_bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))])
    try:
        refs, _ = listed(damaged)
        results = fetch(refs)
    except SourceError:
        return
    if path.suffix == ".zip":  # the only kind that carries checksums
        assert {result for result in results if isinstance(result, bytes)} <= set(PICTURES.values())
