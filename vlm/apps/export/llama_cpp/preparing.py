"""How a picture is prepared for llama.cpp, which takes one size alone; and the README's text that shows it."""

from __future__ import annotations

from typing import Any

from PIL import Image

from vlm.llava.model import VLM

USE = """\
For llama.cpp: `{text}` is the language model, `{mmproj}` the vision tower and connector.

```bash
llama-server -m {text} --mmproj {mmproj} --jinja --port 8080
llama-mtmd-cli -m {text} --mmproj {mmproj} --jinja --temp 0 --image prepared.png -p "What is on the table?"
```

**Resize pictures first**, to {size} x {size} pixels: a larger one llama.cpp shows to the model in several copies or
tiles, which it was not trained for; a smaller one it enlarges by a filter of its own.

```python
import base64, io
from PIL import Image, ImageOps

def prepared(file):
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith("I"):  # 16-bit greys: convert() alone would make nearly all of them white
        image = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
        image.info.pop("transparency", None)
    if image.has_transparency_data:  # on white: convert() alone would show what lies below, mostly black
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
{steps}
    return image

def data_uri(image):
    stored = io.BytesIO()
    image.save(stored, "PNG")
    return "data:image/png;base64," + base64.b64encode(stored.getvalue()).decode()

prepared("photo.jpg").save("prepared.png")  # for llama-mtmd-cli
picture = {{"type": "image_url", "image_url": {{"url": data_uri(prepared("photo.jpg"))}}}}
messages = [{{"role": "user", "content": [picture, {{"type": "text", "text": "What is on the table?"}}]}}]
request = {{"messages": messages, "max_tokens": 64, "temperature": 0}}
```

By llama-server, with OpenAI's client:

```python
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
print(client.chat.completions.create(model="any", **request).choices[0].message.content.strip())
```

Without a server, by `pip install xllamacpp`:

```python
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.mmproj.path = "{text}", "{mmproj}"
params.n_ctx = {context}
print(xllamacpp.Server(params).handle_chat_completions(request)["choices"][0]["message"]["content"].strip())
```

Scores, if any are below, were measured with transformers before the conversion.
"""


def prepared(vlm: VLM, image: Image.Image) -> Image.Image:
    """The picture in the one size that llama.cpp takes as it is, by the steps of `_steps`."""
    pixels: Any = vlm.processor.image_processor
    size, resample = _size(vlm), Image.Resampling(pixels.resample)
    if not pixels.do_center_crop:
        return image.resize((size, size), resample)
    scale = pixels.size["shortest_edge"] / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), resample)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def use(vlm: VLM, text: str, mmproj: str) -> str:
    """The section "Use" of the README."""
    context = 1 << (len(vlm.prompt_ids("x", 1)) + 1024).bit_length()
    return USE.format(text=text, mmproj=mmproj, size=_size(vlm), steps=_steps(vlm), context=context)


def _steps(vlm: VLM) -> str:
    """`prepared` as lines of Python."""
    pixels: Any = vlm.processor.image_processor
    size, resample = _size(vlm), f"Image.Resampling.{Image.Resampling(pixels.resample).name}"
    lines = [f"image = image.resize(({size}, {size}), {resample})"]
    if pixels.do_center_crop:
        lines = [
            f"scale = {pixels.size['shortest_edge']} / min(image.size)",
            f"image = image.resize((round(image.width * scale), round(image.height * scale)), {resample})",
            f"left, top = (image.width - {size}) // 2, (image.height - {size}) // 2",
            f"image = image.crop((left, top, left + {size}, top + {size}))",
        ]
    return "\n".join(f"    {line}" for line in lines)


def _size(vlm: VLM) -> int:
    config: Any = vlm.model.config
    return config.vision_config.image_size
