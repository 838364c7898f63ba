"""Is a VLM or an encoder what it was when it was saved, and does it look at the image?"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from vlm.apps.doctor.findings import Finding, Findings, attempt, judged
from vlm.apps.doctor.labels import decoded
from vlm.apps.pictures import read_pictures
from vlm.encoders.by_name import check_encoder
from vlm.encoders.levljepa import WEIGHTS as ENCODER_WEIGHTS
from vlm.errors import UserError
from vlm.integrity import MANIFEST, changed, read_record, verify, write_manifest
from vlm.llava.folder import is_llava
from vlm.llava.model import VLM, load
from vlm.llava.parity import check_parity
from vlm.llava.parts import connector, language_model, vision_tower
from vlm.llms.prompt import briefly

QUESTIONS = ("What color is it?", "What is in the picture?")
NEW_TOKENS = 8
SHOWN = 60  # characters of the prompt in front of the answer
# The connector's root mean square over that of the LLM's embeddings. A language model normalises what each layer reads,
# so connectors that work give anything from about the embeddings' size to a hundred times of it.
NEAR = (0.1, 300.0)
ALIKE = 1e-3  # relative difference of the features of two images below which nothing tells them apart


def vlm_findings(folder: Path, images: Sequence[str] = ()) -> Findings:
    """All checks of a VLM; nothing more can be checked if it does not load."""
    try:
        recorded = verify(folder, afresh=True)
        vlm = load(folder)
        pictures = read_pictures(images).images if images else ()
    except UserError as error:
        yield Finding("FAIL", "folder", str(error))
        return
    yield _files(folder, recorded)
    yield Finding("OK", "folder", _parts(vlm))
    yield from attempt("vision tower", lambda: _tower(vlm))
    yield from attempt("chat template", lambda: _template(vlm))
    yield from attempt("generation", lambda: _generation(vlm))
    yield from attempt("connector", lambda: _connector(vlm))
    yield from attempt("image", lambda: _looks(vlm, pictures or drawn_shapes()))


def _files(folder: Path, recorded: bool) -> Finding:
    if recorded:
        return Finding("OK", "files", f"are what was written, by the hashes in {MANIFEST}")
    advice = f"`vlm doctor {folder} --accept` records them as they are"
    return Finding("warn", "files", f"cannot be verified, there is no {MANIFEST}: {advice}")


def export_findings(folder: Path) -> Findings:
    """Whether a folder with a manifest that is no VLM or encoder of ours is what was written, such as an export."""
    if problem := changed(folder, afresh=True):
        yield Finding("FAIL", "files", f"{problem}: copy {folder} again, or make it anew by `vlm export`")
    else:
        yield _files(folder, recorded=True)


def accepted(folder: Path) -> Finding:
    """Record the files of a model's folder as they are now; says which were recorded otherwise.

    Raises: UserError if there is no model in the folder whose checks follow, or it cannot be written.
    """
    # Of another export nothing would be checked behind the hashes: damage would be recorded as well.
    if not is_llava(folder) and not (folder / ENCODER_WEIGHTS[0]).is_file() and not _is_hf_encoder(folder):
        raise UserError(
            f"--accept is of a VLM or an encoder, which {folder} is not: give RUN/vlm or RUN/encoder; what "
            "`vlm export` wrote for others is made anew"
        )
    before: Any = None
    with suppress(UserError):  # one that cannot be read is replaced like one that is wrong
        before = read_record(folder / MANIFEST).get("files")
    before = before if isinstance(before, dict) else {}
    now = write_manifest(folder)
    differing = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    text = f"{len(now)} files recorded in {folder / MANIFEST}"
    return Finding("OK", "accept", f"{text}; changed since the last time: {', '.join(differing) or 'none'}")


def _is_hf_encoder(folder: Path) -> bool:
    """Whether `--encoder hf:FOLDER` opens it; loading then refuses files that are not the recorded ones."""
    try:
        check_encoder(f"hf:{folder}")
    except UserError:
        return False
    return True


def _parts(vlm: VLM) -> str:
    """ "vit of 0.8 M parameters, connector of 0.4 M, llama of 135 M; 16 tokens an image; float32" """
    counted: list[torch.nn.Module] = [vision_tower(vlm.model), connector(vlm.model), language_model(vlm.model)]
    tower, joint, text = (sum(each.numel() for each in part.parameters()) / 1e6 for part in counted)
    config: Any = vlm.model.config
    return (
        f"{config.vision_config.model_type} of {tower:.3g} M parameters, connector of {joint:.3g} M, "
        f"{config.text_config.model_type} of {text:.3g} M; {config.image_seq_length} tokens an image; "
        f"{str(vlm.model.dtype).removeprefix('torch.')} on {vlm.model.device}"
    )


def _tower(vlm: VLM) -> Findings:
    if vlm.fixture is None:
        text = "not checked, the folder has no parity.safetensors"
        yield Finding("warn", "vision tower", f"{text}: save it with this project to have it checked")
    else:
        error = check_parity(vlm.model, vlm.fixture)
        yield Finding("OK", "vision tower", f"gives the encoder's features (relative error {error:.1e})")


def _template(vlm: VLM) -> Findings:
    ids, prompt = vlm.conversation_ids("What color is the car?", "red")
    slots = ids.count(vlm.processor.image_token_id)
    text = f"a prompt of {prompt} tokens, {slots} of them the image; the answer follows it token by token"
    yield Finding("OK", "chat template", text)
    ids, prompt = vlm.conversation_ids(briefly("What color is the car?"), "red")
    before, supervised = decoded(vlm.processor, ids, prompt)
    text = (before[-SHOWN:] + supervised).replace("\n", "\\n")
    yield Finding("OK", "labels", f"...{text} has {len(ids) - prompt} supervised tokens")


def _generation(vlm: VLM) -> Findings:
    ids, _ = vlm.conversation_ids("What color is the car?", "red")
    end, stops = ids[-1], vlm.model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    token = vlm.processor.tokenizer.convert_ids_to_tokens(end)
    if end in stops:
        yield Finding("OK", "generation", f"stops at {token!r}, which ends a turn")
    else:
        text = f"a turn ends with {token!r} (token {end}), but generation stops only at {stops}"
        yield Finding("FAIL", "generation", f"{text}: put {end} into eos_token_id of generation_config.json")


@torch.no_grad()
def _connector(vlm: VLM) -> Findings:
    """The scale of what the LLM reads in the image's slots beside that of its words, and whether all is finite."""
    pixels = _pixels(vlm, drawn_shapes())
    inside: Any = vlm.model.get_image_features(pixel_values=pixels)
    tokens = torch.cat([each.flatten(0, -2) for each in getattr(inside, "pooler_output", inside)]).float()
    embeddings: Any = language_model(vlm.model).get_input_embeddings()
    words = embeddings.weight.float()  # float32[vocabulary, width]
    if not tokens.isfinite().all():
        yield Finding("FAIL", "connector", "gives NaN or infinity: train it again, from an older checkpoint")
        return
    image, text = tokens.square().mean().sqrt().item(), words.square().mean().sqrt().item()
    ratio = image / max(text, 1e-12)
    said = f"its output is {ratio:.3g} times as large as the LLM's embeddings (rms {image:.3g} and {text:.3g})"
    advice = (
        f"those of VLMs that work give {NEAR[0]:g} to {NEAR[1]:g} times; train longer if smaller, lower --lr if larger"
    )
    yield judged(NEAR[0] <= ratio <= NEAR[1], "connector", said, advice)


def _looks(vlm: VLM, pictures: Sequence[Image.Image]) -> Findings:
    """Whether answers change if the image is taken away (grey), or another one is shown in its place."""
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    pictures = list(pictures) if len(pictures) > 1 else [*pictures, drawn_shapes()[0]]
    answers = [[_said(vlm, picture, question) for question in QUESTIONS] for picture in pictures]
    blank = [_said(vlm, grey, question) for question in QUESTIONS]
    others = answers[1:] + answers[:1]
    count = len(pictures) * len(QUESTIONS)
    blanked = sum(a != b for own in answers for a, b in zip(own, blank))
    shuffled = sum(a != b for own, other in zip(answers, others) for a, b in zip(own, other))
    text = f"{blanked} of {count} answers change without the image, {shuffled} of {count} with another image"
    example = f"{QUESTIONS[0]!r} gives {answers[0][0]!r}, without the image {blank[0]!r}, with another {others[0][0]!r}"
    advice = "it hardly looks at the image; train longer, and compare with the blind encoder's scores"
    yield judged(blanked > 0 and shuffled > 0, "image", f"{text} ({example})", advice)


def _said(vlm: VLM, picture: Image.Image, question: str) -> str:
    return " ".join(vlm.answer(picture, question, NEW_TOKENS, short=True).lower().split())


def _pixels(vlm: VLM, pictures: Sequence[Image.Image]) -> torch.Tensor:
    """float[B, 3, H, W] as the model reads them."""
    pixels = vlm.processor.image_processor(images=list(pictures), return_tensors="pt").pixel_values
    return pixels.to(vlm.model.device, vlm.model.dtype)


def drawn_shapes() -> list[Image.Image]:
    """Four shapes of different colours, kinds and places."""
    shapes = []
    for colour, ground, kind, box in (
        ("red", "white", "ellipse", (10, 10, 120, 120)),
        ("blue", "beige", "rectangle", (110, 90, 210, 190)),
        ("green", "black", "ellipse", (100, 20, 200, 120)),
        ("yellow", "gray", "rectangle", (20, 120, 110, 210)),
    ):
        image = Image.new("RGB", (224, 224), ground)
        getattr(ImageDraw.Draw(image), kind)(box, fill=colour)
        shapes.append(image)
    return shapes


def encoder_findings(name: str) -> Findings:
    """Whether an encoder loads, and tells images and patches apart."""
    from vlm.encoders.by_name import open_encoder

    folder = Path(name)
    try:
        recorded = folder.is_dir() and verify(folder, afresh=True)
        encoder = open_encoder(name)
    except UserError as error:
        yield Finding("FAIL", "encoder", str(error))
        return
    if folder.is_dir():
        yield _files(folder, recorded)
    config = encoder.config
    parameters = sum(each.numel() for each in encoder.vision.parameters()) / 1e6
    statistics = f"mean {_rounded(config.mean)}, std {_rounded(config.std)}"
    text = f"ViT of {parameters:.3g} M parameters, {config.image_size} pixels, {config.patches} patches; {statistics}"
    yield Finding("OK", "encoder", text)
    yield from attempt("features", lambda: _features(encoder))


@torch.no_grad()
def _features(encoder: Any) -> Findings:
    """Relative differences of tokens between images, and between the patches of an image."""
    pixels = torch.stack([encoder.transform(image) for image in drawn_shapes()])
    tokens = encoder.patch_tokens(pixels.to(encoder.device)).float()  # [4, N, D]
    if not tokens.isfinite().all():
        yield Finding("FAIL", "features", "hold NaN or infinity: export an older checkpoint")
        return
    scale = tokens.square().mean().sqrt().clamp(min=1e-12)
    images = ((tokens - tokens.mean(0)).square().mean().sqrt() / scale).item()
    patches = ((tokens - tokens.mean(1, keepdim=True)).square().mean().sqrt() / scale).item()
    text = f"differ by {images:.2g} of their size between images, {patches:.2g} between the patches of an image"
    advice = "nothing tells images apart; right for `blind`, else the encoder has collapsed: see pretrain/report.py"
    yield judged(min(images, patches) > ALIKE, "features", text, advice)


def _rounded(values: Sequence[float]) -> str:
    return "/".join(f"{value:.3g}" for value in values)
