"""Options that several commands share."""

from hypothesis import given
from hypothesis import strategies as st

from captionbeam.jobs.options.shared import read_ids

LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1)


@given(st.lists(LINES, min_size=1), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_ids_are_lines_as_they_stand(tmp_path_factory, ids, end, mark):
    path = tmp_path_factory.getbasetemp() / "ids.txt"
    path.write_bytes(("\ufeff" * mark + "".join(f"{image_id}{end}" for image_id in ids)).encode())
    assert read_ids(str(path)) == (set(ids) if mark else {ids[0].removeprefix("\ufeff"), *ids[1:]} - {""})
