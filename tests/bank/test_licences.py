"""Licences as they are written, and their SPDX names (https://spdx.org/licenses)."""

import pytest

from mede2_jax.bank.licences import REUSE, check_families, family, licence


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["https://creativecommons.org/licenses/by/4.0/"], "CC-BY-4.0"),
        (["http://creativecommons.org/licenses/by-nc-nd/4.0/legalcode"], "CC-BY-NC-ND-4.0"),
        (["https://creativecommons.org/licences/by-sa/3.0"], "CC-BY-SA-3.0"),
        (["https://creativecommons.org/publicdomain/zero/1.0/"], "CC0-1.0"),
        (["https://creativecommons.org/publicdomain/mark/1.0/"], "PDM-1.0"),
        (["CC BY 4.0"], "CC-BY-4.0"),
        (["CC-BY-NC-SA-4.0"], "CC-BY-NC-SA-4.0"),
        (["ccby"], "CC-BY"),
        (["cc by nc nd"], "CC-BY-NC-ND"),
        (["CC0"], "CC0-1.0"),
        (["mit"], "MIT"),
        (["apache-2.0"], "Apache-2.0"),
        (["distributed under the terms of the Creative Commons Attribution License, which permits unrestricted use"], "CC-BY"),
        (["the Creative Commons Attribution Non-Commercial License 4.0"], "CC-BY-NC-4.0"),
        (["Creative Commons Attribution-NonCommercial-NoDerivatives 4.0 International"], "CC-BY-NC-ND-4.0"),
        (["Creative Commons Attribution–ShareAlike license"], "CC-BY-SA"),
        (["Creative Commons Attribution (CC BY) license", "https://creativecommons.org/licenses/by/4.0/"], "CC-BY-4.0"),
        (["CC BY 4.0", "CC BY 3.0"], "CC-BY"),
    ],
)
def test_a_licence_is_known_however_it_is_written(texts, name):
    assert licence(texts) == name


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [""],
        ["all rights reserved"],
        ["open-access"],
        ["CC"],
        ["accessed by all"],
        ["https://creativecommons.org/licenses/by/4.0/", "Creative Commons Attribution-NonCommercial License"],
        ["CC BY", "CC0"],
    ],
    ids=repr,
)
def test_what_is_not_known_or_contradicts_itself_is_none(texts):
    assert licence(texts) == ""


def test_a_family_has_no_version_but_where_its_name_has_one():
    names = ("CC-BY-4.0", "CC0-1.0", "Apache-2.0", "CC-BY-NC", "PDM-1.0", "BSD-3-Clause")
    assert list(map(family, names)) == ["CC-BY", "CC0", "Apache-2.0", "CC-BY-NC", "PDM", "BSD-3-Clause"]


def test_nothing_is_taken_of_which_nothing_may_be_made():
    assert not [name for name in REUSE if {"NC", "ND"} & set(name.split("-"))]


def test_names_of_families_are_checked():
    assert check_families(["cc-by", "MIT"]) == ("CC-BY", "MIT")
    with pytest.raises(ValueError, match=r"'CC-BY-SX' is no licence that is known \(did you mean 'CC-BY-SA'\?\)"):
        check_families(["CC-BY-SX"])
