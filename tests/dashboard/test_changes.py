"""Changes: what a page that knows a version needs to know more."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.dashboard.changes import Changes

KEYS = st.sampled_from(["run/a", "run/b", "run/c", "curves/a", "about", "words"])
CONTENTS = st.dictionaries(KEYS, st.integers(0, 2))


@given(st.lists(CONTENTS, min_size=1), st.lists(st.booleans(), min_size=10, max_size=10))
def test_a_page_that_takes_every_update_has_every_part(
    contents: list[dict[str, Any]], looks: list[bool]
) -> None:
    changes, page, version = Changes(), dict[str, Any](), 0
    kinds = ("run", "curves", "about", "words")
    for index, content in enumerate(contents):
        changes.replace(content, kinds)
        if looks[index % 10] or index == len(contents) - 1:
            update = changes.since(version)
            assert not set(update.parts) & set(update.removed)
            page.update(update.parts)
            for key in update.removed:
                page.pop(key, None)
            version = update.version
            assert page == content
    assert changes.since(version).parts == {}
    assert changes.since(0).parts == page
    assert changes.since(version + 1).parts == page  # of another server


def test_only_news_are_sent_and_other_kinds_stay() -> None:
    changes = Changes()
    changes.replace({"run/a": 1, "run/b": [1]}, ["run"])
    changes.replace({"words": "x"}, ["words"])
    version = changes.since(0).version
    changes.replace({"run/a": 1, "run/b": [1]}, ["run"])
    assert changes.since(version).version == version
    changes.replace({"run/b": [2]}, ["run"])
    update = changes.since(version)
    assert (update.parts, list(update.removed)) == ({"run/b": [2]}, ["run/a"])
    changes.replace({"problem/runs": ""}, [])
    version = changes.since(0).version
    changes.replace({"problem/runs": ""}, [])
    assert changes.since(version).version == version
