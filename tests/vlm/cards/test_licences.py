"""Which licence a part has, and the whole that holds it."""

import pytest
from tiny.encoders import nine_patch_encoder

from vlm.cards.licences import Part, encoder_part, language_model_part, of_whole, public_name
from vlm.files import read_json, write_json


def test_presets_and_random_weights():
    assert language_model_part("smollm2").licence == "apache-2.0"
    assert language_model_part("llama") == Part(
        "language model", "meta-llama/Llama-3.2-1B-Instruct", "llama3.2", False, "meta-llama/Llama-3.2-1B-Instruct"
    )
    assert encoder_part("random:lukaskuhndkfz/LeVLJEPA-ViT-B-DataComp-200k").free
    assert encoder_part("blind").says() == "none of others"
    assert language_model_part("some/model").says() == "not known: see where it came from"


def test_the_released_layout_without_our_statistics_is_non_commercial(tmp_path):
    nine_patch_encoder().save(tmp_path / "encoder")
    name = str(tmp_path / "encoder")
    assert encoder_part(name) == Part("encoder", public_name(name), None, True)
    config = read_json(tmp_path / "encoder/config.json")
    del config["normalization"]
    write_json(tmp_path / "encoder/config.json", config)
    assert encoder_part(str(tmp_path / "encoder")).licence == "cc-by-nc-4.0"
    assert encoder_part("lukaskuhndkfz/LeVLJEPA-ViT-B-DataComp-200k").licence == "cc-by-nc-4.0"


def test_a_part_is_licensed_as_its_own_card_says(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert language_model_part(str(tmp_path)).licence == "mit"
    assert encoder_part(f"hf:{tmp_path}").licence == "mit"
    (tmp_path / "README.md").write_text("No metadata.\n")
    assert language_model_part(str(tmp_path)).licence is None


@pytest.mark.parametrize(
    "licences, whole",
    [
        (["apache-2.0", "apache-2.0"], "apache-2.0"),
        (["apache-2.0", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["llama3.2", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["llama3.2", "apache-2.0"], "llama3.2"),
        (["apache-2.0", "mit"], None),
        (["apache-2.0", None], None),
        ([None, "cc-by-nc-4.0"], "cc-by-nc-4.0"),
    ],
)
def test_the_whole_is_bound_by_the_strictest(licences, whole):
    assert of_whole([Part("part", "name", licence) for licence in licences]) == whole


def test_own_and_random_weights_bind_nothing():
    assert of_whole([Part("language model", "a", "apache-2.0"), Part("encoder", "b", free=True)]) == "apache-2.0"
    assert of_whole([Part("encoder", "b", free=True)]) is None
