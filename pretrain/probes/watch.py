"""Follows what the encoder has learnt during the run: retrieval among held-out captions, and effective ranks."""

from pretrain.config import PretrainConfig
from pretrain.data.source import open_captions
from pretrain.probes.features import embed
from pretrain.probes.retrieval import RANKS, ranks, recalls, tell_passed, usable_pairs
from pretrain.zero import gathered
from vlm.distributed import barrier, is_main
from vlm.encoders.levljepa import Encoder, new_encoder
from vlm.errors import UserError

POOL = 256  # pairs


class Watch:
    """Measures the encoder after every `probe_every` steps on the first 256 usable pairs of `probe_data`.

    Rank 0 measures a frozen copy while the others wait. Of the module itself one rank alone cannot run a step under
    ZeRO-3, and it never leaves training mode.
    """

    def __init__(self, encoder: Encoder, config: PretrainConfig):
        self.encoder, self.every = encoder, config.probe_every
        if not config.probe_data:
            return
        data = open_captions(
            config.probe_data, config.image_column, config.caption_column, image_root=config.image_root
        )
        self.images, self.captions, passed = usable_pairs(data, POOL)
        if len(self.captions) < max(RANKS):
            found = f"--probe-data {config.probe_data} holds {len(self.captions)} usable pairs"
            raise UserError(f"{found}: R@{max(RANKS)} needs {max(RANKS)} or more")
        tell_passed(passed, len(self.captions))
        if is_main():
            copy = new_encoder(encoder.config, config.seed, encoder.tokenizer)
            self.copy = copy.eval().requires_grad_(False).to(encoder.device)

    def after(self, steps: int) -> dict[str, float]:
        """The numbers after so many steps, on rank 0 and if they are due, else {}; collective if they are due."""
        if not self.every or steps % self.every:
            return {}
        with gathered(list(self.encoder.parameters())):
            if is_main():
                self.copy.load_state_dict(self.encoder.state_dict())
        numbers: dict[str, float] = {}
        if is_main():
            e = embed(self.copy, self.images, self.captions, label=None)
            numbers = {f"probe_{name}": value for name, value in {**recalls(e, self.captions), **ranks(e)}.items()}
        barrier()
        return numbers
