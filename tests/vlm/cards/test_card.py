"""Model cards: metadata that the hub reads, sections that are replaced one by one."""

import pytest

from vlm.cards.card import make_card, read_card, with_section, write_card
from vlm.cards.licences import Part
from vlm.errors import UserError


def card():
    parts = [Part("language model", "a/b", "apache-2.0", hub_id="a/b"), Part("encoder", "e", "cc-by-nc-4.0")]
    return make_card("mine", "About it.", "Use it.\n", parts, {"pairs": "abc"}, {"lr": 0.1, "heads": None})


def test_a_card_has_licence_base_model_parts_data_and_settings(tmp_path):
    write_card(card(), tmp_path)
    read = read_card(tmp_path)
    assert read.data.license == "cc-by-nc-4.0" and read.data.base_model == ["a/b"]
    assert "| encoder | e | cc-by-nc-4.0 |\n" in read.text
    assert "Weights for non-commercial use only are inside" in read.text
    assert "| pairs | abc |\n" in read.text
    assert "| lr | 0.1 |\n" in read.text and "heads" not in read.text
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_section_is_replaced_and_what_a_user_wrote_stays():
    changed = with_section(with_section(card(), "Thanks", "To all.\n"), "Scores", "All right: \\1.\n")
    assert "## Scores\n\nAll right: \\1.\n" in changed.text
    assert "Not evaluated yet" not in changed.text
    assert changed.text.endswith("## Thanks\n\nTo all.\n")
    assert changed.data.license == "cc-by-nc-4.0"


def test_a_readme_that_is_no_card_is_one_line(tmp_path):
    assert read_card(tmp_path) is None
    (tmp_path / "README.md").write_text("---\n: [\n---\n")
    with pytest.raises(UserError, match=r"README\.md is no model card .*: mend or remove it"):
        read_card(tmp_path)
