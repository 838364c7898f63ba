"""What stock tools do with a saved VLM. Run as a script in a process that knows nothing of this project.

stock_calls.py FOLDER QUESTIONS.json: [[picture file, question], ...] -> one line of JSON.
"""

import json
import sys
import threading
from pathlib import Path

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, TextIteratorStreamer, pipeline

folder, questions = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
processor = AutoProcessor.from_pretrained(folder)
tokenizer = processor.tokenizer
pictures = [Image.open(picture).convert("RGB") for picture, _ in questions]
NEW = 6


def turn(text, **image):
    return [{"role": "user", "content": [{"type": "image", **image}, {"type": "text", "text": text}]}]


def new_text(ids, prompt):
    return tokenizer.batch_decode(ids[:, prompt:], skip_special_tokens=True)


def generated(texts, images, **options):
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt").to("cpu", model.dtype)
    ids = model.generate(**inputs, max_new_tokens=NEW, **options)
    return inputs, new_text(ids, inputs["input_ids"].shape[1])


def streamed(text, picture):
    inputs = processor(text=text, images=picture, return_tensors="pt")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {**inputs, "max_new_tokens": NEW, "streamer": streamer}
    threading.Thread(target=model.generate, kwargs=options).start()
    return "".join(streamer)


def lmms_simple(question, picture):
    """As lmms_eval 0.7.3's models/simple/llava_hf.py, generate_until: a plain string, and the tokenizer's end."""
    processor.tokenizer.padding_side = "left"
    context = question if "<image>" in question else f"<image>\n{question}"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": context}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(images=[picture], text=text, return_tensors="pt").to("cpu", model.dtype)
    end = tokenizer.eos_token_id
    options = dict(do_sample=False, temperature=None, top_p=1.0, num_beams=1, use_cache=True)
    ids = model.generate(**inputs, **options, max_new_tokens=NEW, pad_token_id=end, eos_token_id=end)
    ids = ids[:, inputs["input_ids"].shape[-1] :]
    return inputs["input_ids"][0].tolist(), tokenizer.batch_decode(ids, skip_special_tokens=True)[0]


def lmms_chat(question, picture):
    """As models/chat/llava_hf.py: a list of contents, the processor's template, and the tokenizer's end."""
    messages = turn(question, url=picture)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor(images=[picture], videos=None, text=text, return_tensors="pt").to("cpu", model.dtype)
    end = tokenizer.eos_token_id
    options = dict(do_sample=False, temperature=None, top_p=1.0, num_beams=1, use_cache=True)
    ids = model.generate(**inputs, **options, max_new_tokens=NEW, pad_token_id=end, eos_token_id=end)
    trimmed = [out_ids[len(in_ids) :] for in_ids, out_ids in zip(inputs.input_ids, ids)]
    return tokenizer.batch_decode(trimmed, skip_special_tokens=True)[0]


texts = [processor.apply_chat_template(turn(question), add_generation_prompt=True) for _, question in questions]
piped = pipeline("image-text-to-text", model=model, processor=processor)
one_by_one = [generated([text], [picture]) for text, picture in zip(texts, pictures)]
lmms = [lmms_simple(question, picture) for (_, question), picture in zip(questions, pictures)]
answers = {
    "one by one": [text for _, (text,) in one_by_one],
    "one batch": generated(texts, pictures)[1],
    "streamed": [streamed(text, picture) for text, picture in zip(texts, pictures)],
    "pipeline": [
        piped(text=turn(question, image=picture), max_new_tokens=NEW, return_full_text=False)[0]["generated_text"]
        for (_, question), picture in zip(questions, pictures)
    ],
    "lmms-eval, llava_hf": [text for _, text in lmms],
    "lmms-eval, llava_hf_chat": [lmms_chat(question, picture) for (_, question), picture in zip(questions, pictures)],
}
assert not {"vlm", "bridge", "pretrain", "timm"} & set(sys.modules)
print(
    json.dumps(
        {
            "answers": answers,
            "ids": [inputs["input_ids"][0].tolist() for inputs, _ in one_by_one],
            "lmms ids": [ids for ids, _ in lmms],
            "pixels": [inputs["pixel_values"][0].tolist() for inputs, _ in one_by_one],
        }
    )
)
