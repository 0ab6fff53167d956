"""Models that come with swiftlike: tiny, made on the spot, for trying things out and for tests."""

import dataclasses as dc


@dc.dataclass(frozen=True, kw_only=True)
class BuiltinModel:
    """A model that is built instead of downloaded; `build` is the dotted path of name -> folder."""

    name: str
    family: str
    help: str
    template: str = "chatml"
    build: str = "swiftlike.models.tiny:cached"


BUILTIN = (
    BuiltinModel(name="tiny-llama", family="llama", help="text, Llama"),
    BuiltinModel(name="tiny-qwen3", family="qwen3", help="text, Qwen 3"),
    BuiltinModel(name="tiny-llava1_6", family="llava_next", help="pictures, LLaVA 1.6 over Mistral"),
    BuiltinModel(name="tiny-internvl3", family="internvl", help="pictures, InternVL 3"),
    BuiltinModel(name="tiny-qwen2_5-vl", family="qwen2_5_vl", help="pictures, Qwen2.5-VL"),
)
