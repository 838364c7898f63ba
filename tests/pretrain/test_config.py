"""What an objective settles, and combinations that make no sense."""

import pytest

from pretrain.config import from_preset
from pretrain.run import parse
from vlm.errors import UserError


def test_objectives_share_everything_but_what_defines_them():
    runs = {name: vars(parse(["--objective", name])) for name in ("levljepa", "levljepa-plus", "clip", "siglip")}
    different = {
        name: {key: value for key, value in run.items() if value != runs["levljepa"][key] and key != "objective"}
        for name, run in runs.items()
    }
    assert different == {
        "levljepa": {},
        "levljepa-plus": {"augmentation": "dino"},
        "clip": {"projector_depth": 0},
        "siglip": {"projector_depth": 0},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(objective="clip", projector_depth=2), "--projector-depth 2: --objective clip has no predictors"),
        (dict(projector_depth=0), "--projector-depth 0: --objective levljepa needs"),
        (dict(augmentation="dino"), "--augmentation dino: --objective levljepa needs crop-jitter or squash"),
        (dict(objective="levljepa-plus", augmentation="squash"), "--objective levljepa-plus needs dino"),
        (dict(objective="levljepa-plus", lambda_multi=0.97), "together below 1"),
        (dict(lambda_image=-0.1), "each at least 0"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        from_preset("tiny", **changes)
