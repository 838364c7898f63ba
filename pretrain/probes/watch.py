"""What the encoder has learnt so far: retrieval among held-out captions and effective ranks, during the run."""

from pretrain.config import PretrainConfig
from pretrain.data.source import open_captions
from pretrain.objective import effective_rank
from pretrain.probes.features import embed
from pretrain.probes.retrieval import RANKS, recalls, tell_passed, usable_pairs
from pretrain.zero import gathered
from vlm.distributed import barrier, is_main
from vlm.encoders.levljepa import Encoder, new_encoder
from vlm.errors import UserError

POOL = 256


class Watch:
    """Called after every step; measures every `probe_every` of them on the first 256 usable pairs of `probe_data`.

    Rank 0 measures a frozen copy while the others wait. Of the module itself one rank alone cannot run a step under
    ZeRO-3, and it never leaves training mode.
    """

    def __init__(self, encoder: Encoder, config: PretrainConfig):
        self.every = config.probe_every
        if self.every:
            data = open_captions(config.probe_data, config.image_column, config.caption_column)
            self.images, self.captions, passed = usable_pairs(data, POOL)
            if len(self.captions) < max(RANKS):
                raise UserError(
                    f"--probe-data {config.probe_data} holds {len(self.captions)} usable pairs: "
                    f"R@{max(RANKS)} needs {max(RANKS)} or more"
                )
            tell_passed(passed, len(self.captions))
            if is_main():
                copy = new_encoder(encoder.config, config.seed, encoder.tokenizer)
                self.copy = copy.eval().requires_grad_(False).to(encoder.device)

    def __call__(self, engine, step: int) -> dict[str, float]:
        """The numbers after `step` steps, on rank 0 and where they are due, else {}; collective where they are due."""
        if not self.every or step % self.every:
            return {}
        with gathered(list(engine.module.parameters())):
            if is_main():
                self.copy.load_state_dict(engine.module.encoder.state_dict())
        numbers = self._measure() if is_main() else {}
        barrier()
        return numbers

    def _measure(self) -> dict[str, float]:
        e = embed(self.copy, self.images, self.captions, label=None)
        ranks = {"rank_image": float(effective_rank(e.z_v)), "rank_text": float(effective_rank(e.z_t))}
        return {f"probe_{name}": value for name, value in {**recalls(e, self.captions), **ranks}.items()}
