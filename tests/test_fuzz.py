"""The coverage-guided fuzzer's formats: each starts from whole files, which are read."""

import fuzz
import pytest
import watched


@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_what_each_format_starts_from_is_read(name, tmp_path, nothing_outside):
    file, read, seeds = fuzz.FORMATS[name]
    assert seeds
    (tmp_path / "a.png").write_bytes(fuzz.hostile.still(".png"))  # an image that prompts name
    for seed in seeds:
        (tmp_path / file).write_bytes(seed)
        with watched.writing_inside():
            read(tmp_path / file)
