"""Missing packages are one line with the command that brings them."""

from __future__ import annotations

import json

import pytest

from hanmo.errors import HanmoError
from hanmo.extras import need


def test_what_is_there_is_imported_and_what_is_not_is_named() -> None:
    assert need("json", "any") is json
    with pytest.raises(HanmoError, match=r'^no_such_package is not installed: pip install "hanmo\[corpus\]"$'):
        need("no_such_package.part", "corpus")
