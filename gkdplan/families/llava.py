"""The vision part of a config.json: LLaVA's, with CLIP's tower."""

from gkdplan.families.keys import Keys
from gkdplan.shape import ModelShape
from gkdplan.vision import ClipVision

MODEL_TYPE, ARCHITECTURE = "llava", "LlavaForConditionalGeneration"

LLAMA_DEFAULTS: dict[str, object] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
"""What LLaVA's configs leave out of `text_config`, as transformers fills it in (LlamaConfig); the
weights are compared with it."""
DECODERS = ("llama", "qwen2")
_ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
_ONLY_OF_TOWER = {
    "model_type": ("clip_vision_model", "only CLIP's towers are built yet"),
    "num_channels": (3, "images have three colours"),
    "attention_dropout": (0, "nothing is dropped in attention"),
}
_ONLY_OF_PROJECTOR = {"projector_hidden_act": ("gelu", "the projector's activation is GELU")}


def text_config(keys: Keys) -> dict[str, object]:
    """The config of the decoder, as if it stood alone."""
    text = keys.table("text_config")
    if text.get("model_type") not in DECODERS:
        keys.refuse("text_config", f"decoders that see are {' and '.join(DECODERS)}")
    if text.get("model_type") == "llama":
        text = {**LLAMA_DEFAULTS, **text}
    return {**text, "tie_word_embeddings": keys.values.get("tie_word_embeddings", False)}


def read_vision(keys: Keys, text: ModelShape) -> ClipVision:
    """The tower and projector before a decoder; findings are left in `keys` (GK104, GK105)."""
    tower = keys.inner("vision_config")
    for place, only in ((tower, _ONLY_OF_TOWER), (keys, _ONLY_OF_PROJECTOR)):
        for key, (value, why) in only.items():
            if place.has(key) and place.values[key] != value:
                place.refuse(key, why)
    activation = tower.values.get("hidden_act", "quick_gelu")
    if activation not in _ACTIVATIONS:
        tower.refuse("hidden_act", f"a tower's activation is one of {', '.join(_ACTIVATIONS)}")
    vision = ClipVision(
        hidden_size=tower.count("hidden_size", 2**16),
        num_layers=tower.count("num_hidden_layers", 2**10),
        num_heads=tower.count("num_attention_heads", 2**10),
        ffn_hidden_size=tower.count("intermediate_size", 2**20),
        image_size=tower.count("image_size", 2**12),
        patch_size=tower.count("patch_size", 2**10),
        activation=str(activation),
        norm_eps=tower.number("layer_norm_eps", 0.0, 1.0, 1e-5),
        output_size=text.hidden_size,
        image_token_id=keys.count("image_token_index", text.vocab_size - 1, 32000),
        feature_layer=_feature_layer(keys),
        with_class_token=_with_class_token(keys),
        projector_bias=keys.flag("multimodal_projector_bias", True),
    )
    if not keys.findings:
        _check_sizes(keys, vision, text)
    return vision


def _feature_layer(keys: Keys) -> int:
    layer = keys.values.get("vision_feature_layer", -2)
    if isinstance(layer, int) and not isinstance(layer, bool):
        return layer
    keys.refuse("vision_feature_layer", "the states of one layer of the tower are taken")
    return -1


def _with_class_token(keys: Keys) -> bool:
    strategy = keys.values.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        keys.refuse("vision_feature_select_strategy", 'it is "default" or "full"')
    return strategy == "full"


def _check_sizes(keys: Keys, vision: ClipVision, text: ModelShape) -> None:
    hidden, heads, last = vision.hidden_size, vision.num_heads, vision.num_layers
    if hidden % heads:
        keys.wrong(
            f"`vision_config.hidden_size` = {hidden} is not a multiple of "
            f"`vision_config.num_attention_heads` = {heads}"
        )
    if vision.patch_size > vision.image_size:
        keys.wrong(
            f"`vision_config.patch_size` = {vision.patch_size} exceeds "
            f"`vision_config.image_size` = {vision.image_size}"
        )
    if not -last - 1 <= vision.feature_layer <= last:
        keys.wrong(f"`vision_feature_layer` = {vision.feature_layer} is none of {last + 1} states")
    if vision.image_token_id >= text.vocab_size:
        keys.wrong(
            f"`image_token_index` = {vision.image_token_id} is no row of the embedding, which has "
            f"{text.vocab_size}"
        )
