"""Follows what the encoder has learnt during the run: retrieval and ranks of held-out captions, zero-shot accuracy."""

from collections.abc import Sequence

from pretrain.config import PretrainConfig
from pretrain.data.source import open_captions
from pretrain.probes.features import embed
from pretrain.probes.heads import accuracy
from pretrain.probes.labelled import open_labelled
from pretrain.probes.pixels import Images
from pretrain.probes.retrieval import RANKS, ranks, recalls, tell_passed, usable_pairs
from pretrain.probes.zero_shot import TEMPLATES, CaptionClassifier, spoken_name
from pretrain.zero import gathered
from vlm.distributed import is_main
from vlm.encoders.levljepa import Encoder, new_encoder
from vlm.errors import UserError


class Watch:
    """Measures the encoder after every `probe_every` steps, on `probe_data`, on `probe_classes` or on both.

    Every rank measures its share of the images with a frozen copy: the module itself never leaves training mode, and
    under ZeRO-3 no rank could run it alone.
    """

    def __init__(self, encoder: Encoder, config: PretrainConfig):
        self.encoder, self.every = encoder, config.probe_every
        self.images: Sequence = ()
        self.captions: list[str] = []
        if not self.every:
            return
        if config.probe_data:
            self._open_captions(config.probe_data, config)
        source, root = config.probe_classes, config.image_root
        self.classes = open_labelled(source, "val", image_root=root) if source else None
        if self.classes:
            for name in self.classes.classes:
                spoken_name(name)  # raises if a class has no name to say
            count = len(self.classes.images)
            chosen = min(count, config.probe_images or count)
            places = [number * count // chosen for number in range(chosen)]  # evenly spread, so over all classes
            every = self.classes.images
            self.shown = Images(chosen, lambda number: every[places[number]])
            self.labels = self.classes.labels[places]
        copy = new_encoder(encoder.config, config.seed, encoder.tokenizer)
        self.copy = copy.eval().requires_grad_(False).to(encoder.device)

    def _open_captions(self, source: str, config: PretrainConfig) -> None:
        data = open_captions(source, config.image_column, config.caption_column, image_root=config.image_root)
        self.images, self.captions, passed = usable_pairs(data, config.probe_pool)
        if len(self.captions) < max(RANKS):
            found = f"--probe-data {source} holds {len(self.captions)} usable pairs"
            raise UserError(f"{found}: R@{max(RANKS)} needs {max(RANKS)} or more")
        tell_passed(passed, len(self.captions))

    def after(self, steps: int) -> dict[str, float]:
        """The numbers after so many steps, on rank 0 and if they are due, else {}; collective if they are due."""
        if not self.every or steps % self.every:
            return {}
        with gathered(list(self.encoder.parameters())):
            self.copy.load_state_dict(self.encoder.state_dict())
        numbers: dict[str, float] = {}
        if self.captions:
            e = embed(self.copy, self.images, self.captions, label=None)
            numbers |= {**recalls(e, self.captions), **ranks(e)}
        if self.classes:
            classifier = CaptionClassifier.build(self.copy, self.classes.classes, TEMPLATES)
            scores = classifier(self.copy, self.shown, label=None)
            numbers["zero_shot"] = accuracy(scores, self.labels.to(scores.device))
        return {f"probe_{name}": value for name, value in numbers.items()} if is_main() else {}
