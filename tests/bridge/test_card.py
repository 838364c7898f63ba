"""RUN/vlm/README.md."""

from vlm.cards.card import read_card
from vlm.llava.digest import content_digest


def test_a_run_ends_with_a_card_of_its_parts_data_and_settings(whole, training):
    card = read_card(whole / "vlm")
    assert card.data.pipeline_tag == "image-text-to-text" and card.data.library_name == "transformers"
    assert "| encoder |" in card.text and "| none of others |" in card.text
    assert f"questions of gqa ({training.root.name}/gqa), vqav2 ({training.root.name}/vqav2)" in card.text
    assert "| lr | 0.05 |" in card.text and "| steps | 12 |" in card.text
    assert str(training.root) not in card.text  # a path on this machine says nothing elsewhere
    assert str(whole) not in card.text and 'pipeline("image-text-to-text", model=".")' in card.text


def test_the_card_does_not_count_as_content(whole):
    before = content_digest(whole / "vlm")
    text = (whole / "vlm/README.md").read_text()
    (whole / "vlm/README.md").write_text(text + "\nMore.\n")
    assert content_digest(whole / "vlm") == before
    (whole / "vlm/README.md").write_text(text)
