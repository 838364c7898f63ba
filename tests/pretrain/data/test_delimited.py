"""pretrain.data.delimited: rows of csv and tsv files are neither shifted nor cut nor joined in silence."""

import pytest
from tiny.pictures import numbered

from pretrain.data.source import open_captions
from vlm.errors import UserError

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture
def captions(tmp_path, capfd):
    """What is read of a table with these lines: each image's number and caption; what is told is in `captions.told`."""

    def read(lines, name="c.csv"):
        for number in range(4):
            (tmp_path / f"{number}.png").write_bytes(numbered(number))
        (tmp_path / name).write_bytes("\n".join([*lines, ""]).encode())
        capfd.readouterr()
        data = open_captions(tmp_path / name)
        read.told = [line for line in capfd.readouterr().err.splitlines() if "c." in line]
        pairs = [data.read(number) for number in range(len(data))]
        assert [image for image, _ in pairs] == [numbered(number) for number in range(len(data))]
        return [caption.decode() for _, caption in pairs]

    return read


def test_the_index_that_pandas_writes(captions):
    assert captions([",filepath,caption", "0,0.png,a dog", "1,1.png,a cat"]) == ["a dog", "a cat"]


def test_a_separator_at_the_end_of_rows(captions):
    assert captions(["filepath,caption", "0.png,a dog,", "1.png,a cat,"]) == ["a dog", "a cat"]
    assert captions(["filepath,caption,", "0.png,a dog,", "1.png,a cat,"]) == ["a dog", "a cat"]
    assert captions(["filepath;caption", "0.png;a dog;", "1.png;a cat"]) == ["a dog", "a cat"]


@pytest.mark.parametrize(
    "lines, line, fields",
    [
        (["0.png,a dog, barking", "1.png,a cat, asleep"], 2, 3),
        (["0.png,a dog", "", '1.png,"two\nlines"', "2.png,a cat, asleep"], 6, 3),
        (["0.png,a dog", "1.png,a cat,, asleep, warm"], 3, 5),
        (["0.png,a dog,, barking", "1.png,a cat,, asleep"], 2, 4),
    ],
)
def test_commas_without_quotes_name_the_line(captions, lines, line, fields):
    words = rf"c\.csv, line {line}, has {fields} fields, more than the 2 of the first line \(filepath, caption\): put"
    with pytest.raises(UserError, match=words):
        captions(["filepath,caption", *lines])


def test_a_quote_that_joins_rows(captions):
    rows = ["filepath\tcaption", '0.png\t"big dog', "1.png\ta cat", '2.png\t"small" mouse', "3.png\ta cow"]
    assert captions(rows, "c.tsv") == ['"big dog', "a cat", '"small" mouse', "a cow"]
    assert "c.tsv is read without quoting" in captions.told[0] and len(captions.told) == 1
    assert captions([*rows[:3], "2.png\ta mouse"], "c.tsv") == ['"big dog', "a cat", "a mouse"]
    with pytest.raises(UserError, match=r'c\.tsv, line 2, has a " that opens and is not closed properly: put texts'):
        captions([*rows, "4.png"], "c.tsv")
    with pytest.raises(UserError, match=r'c\.csv, line 2, has a " that opens and is not closed properly: put texts'):
        captions([row.replace("\t", ",") for row in rows])
    with pytest.raises(UserError, match=r"c\.tsv has texts of several lines, or rows that .* quote the names in its"):
        captions([*rows[:2], '1.png\ta cat"'], "c.tsv")


def test_proper_quotes_are_read_as_before(captions):
    rows = ['0.png\t"a ""big"" dog"', '1.png\t"a\tcat"', '2.png\t"two\nlines\tand a tab"', '3.png\t"two\nlines"']
    expected = ['a "big" dog', "a\tcat", "two\nlines\tand a tab", "two\nlines"]
    for header in ("filepath\tcaption", '"filepath"\t"caption"'):
        assert captions([header, *rows], "c.tsv") == expected
        assert captions([line.replace("\t", ",") for line in (header, *rows)]) == [
            text.replace("\t", ",") for text in expected
        ]
    assert captions(['"filepath"\t"caption"', rows[0], '1.png\t"x\ny\tz"'], "c.tsv") == ['a "big" dog', "x\ny\tz"]
    assert captions.told == []
