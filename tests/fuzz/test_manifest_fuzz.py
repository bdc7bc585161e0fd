"""Whatever a manifest holds: reading it gives a manifest or a BundleError that can be printed."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.manifest import parse_manifest
from hetero.errors import BundleError

sys.path.insert(0, str(Path(__file__).parent.parent / "attacks"))
from sample import make_manifest

GOOD = make_manifest().model_dump(mode="json")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("a" * 64)
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] + [place for key, inner in items for place in places(inner, (*at, key))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_parse_manifest_gives_a_manifest_or_a_bundle_error_for_any_json(data: st.DataObject) -> None:
    content: Any = json.loads(json.dumps(GOOD))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(content)))
        value = copy.deepcopy(data.draw(JSON | st.sampled_from([[], {}, GOOD["files"][0], GOOD["golden"]])))
        if not place:
            content = value
            break
        parent = content
        for key in place[:-1]:
            parent = parent[key]
        action = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            parent[place[-1]] = value
        elif action == "remove":
            del parent[place[-1]]
        elif isinstance(parent, list):
            parent.append(value)
        else:
            parent[data.draw(st.text(max_size=8))] = value
        if not isinstance(content, dict | list):
            break
    raw = json.dumps(content, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    try:
        manifest = parse_manifest(raw)
    except BundleError as error:
        str(error).encode("utf-8")  # printable, whatever the keys were
    else:
        assert json.loads(manifest.model_dump_json()).keys() == GOOD.keys()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_parse_manifest_gives_a_manifest_or_a_bundle_error_for_any_bytes(data: st.DataObject) -> None:
    raw = bytearray(json.dumps(GOOD).encode())
    start = data.draw(st.integers(0, len(raw)))
    raw[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    try:
        parse_manifest(bytes(raw))
    except BundleError as error:
        str(error).encode("utf-8")


def test_good_manifest_of_these_tests_is_accepted() -> None:
    assert parse_manifest(json.dumps(GOOD).encode()) == make_manifest()
    assert make_manifest().files[0].golden.max_abs == 1e-5
