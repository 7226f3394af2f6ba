import pytest

from gkdplan.facts.config import read_shape
from gkdplan.facts.known import find_known, known_ids

# Published totals; for models that ship a copy of a tied head, the total without the copy. They
# can be derived: Qwen2.5-0.5B has h 896, 14 heads of 64, 2 kv heads, ffn 4864, 24 layers, tied, so
# 151936*896 + 24*(2*896*896 + 2*896*128 + 896 + 2*128 + 3*896*4864 + 2*896) + 896 = 494032768.
# Mixtral-8x7B has h 4096, 8 kv heads of 128, 8 experts of ffn 14336, 32 layers, untied, so
# 2*32000*4096 + 32*(2*4096*4096 + 2*4096*1024 + 8*4096 + 8*3*4096*14336 + 2*4096) + 4096.
# DeepSeek-V3 has h 7168, 61 layers of attention from latents, 1536*7168 + 1536 + 1536*128*192 +
# 576*7168 + 512 + 512*128*256 + 7168*128*128 = 187107328, 3 of ffn 18432 and 58 of 256 experts of
# 2048, a shared one, and a router with a bias, 257*3*7168*2048 + 256*7169; untied, so
# 2*129280*7168 + 61*(187107328 + 2*7168) + 3*3*7168*18432 + 58*11320164608 + 7168, without the
# layer for a second token.
# LLaVA-1.5-7B is Llama-2-7b with 64 more rows twice, 64*2*4096, a tower of CLIP-L/14 at 336 pixels,
# 1024 + 588*1024 + 577*1024 + 24*(4*1024*1025 + 4096*1025 + 1024*4097 + 4*1024) + 4*1024, and the
# projector, 1025*4096 + 4097*4096.
# InternVL3-1B is Qwen2.5-0.5B, with 151674 ids and a head of its own, 357898112 + 2*151674*896, a
# tower of 1024 at 448 pixels, 1024 + 1025*1024 + 589*1024 + 24*(4*1024*1025 + 1025*4096 + 4097*1024
# + 6*1024), and the projector, 2*4096 + 4097*896 + 897*896.
PUBLISHED = {
    "llava-hf/llava-1.5-7b-hf": 7_063_427_072,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "OpenGVLab/InternVL3-1B-hf": 938_193_024,
    "OpenGVLab/InternVL3-2B-hf": 2_088_957_440,
    "OpenGVLab/InternVL3-8B-hf": 7_944_373_760,
    "OpenGVLab/InternVL3_5-8B-HF": 8_528_318_464,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "Qwen/Qwen3-VL-30B-A3B-Instruct": 31_070_754_032,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "mistralai/Mistral-Small-24B-Instruct-2501": 23_572_403_200,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-270m": 268_098_176,
    "google/gemma-3-1b-pt": 999_885_952,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/Phi-3-medium-4k-instruct": 13_960_238_080,
    "microsoft/phi-4": 14_659_507_200,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "zai-org/glm-4-9b-chat-hf": 9_399_951_360,
    "zai-org/GLM-4-9B-0414": 9_400_279_040,
    "zai-org/GLM-4-32B-0414": 32_566_081_536,
    "allenai/OLMo-2-0425-1B": 1_484_916_736,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "allenai/OLMo-2-1124-13B": 13_716_198_400,
    "allenai/OLMo-2-0325-32B": 32_234_279_936,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "Qwen/Qwen2-0.5B": 494_032_768,
    "Qwen/Qwen2-1.5B": 1_543_714_304,
    "Qwen/Qwen2-7B": 7_615_616_512,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "Qwen/Qwen1.5-MoE-A2.7B": 14_315_784_192,
    "allenai/OLMoE-1B-7B-0924": 6_919_161_856,
    "deepseek-ai/DeepSeek-V2-Lite": 15_706_484_224,
    "deepseek-ai/DeepSeek-V2": 235_741_434_880,
    "deepseek-ai/DeepSeek-V3": 671_026_419_200,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "mistralai/Mixtral-8x22B-v0.1": 140_620_634_112,
    "mistralai/Mixtral-8x22B-Instruct-v0.1": 140_630_071_296,
}


@pytest.mark.parametrize("hub_id", PUBLISHED)
def test_the_shape_of_a_known_model_has_its_published_number_of_parameters(hub_id: str) -> None:
    known = find_known(hub_id)
    assert known is not None
    shape, _ = read_shape(known.config, "bundled facts")
    assert shape is not None
    assert shape.num_parameters == PUBLISHED[hub_id]


@pytest.mark.parametrize("hub_id", known_ids())
def test_every_known_model_is_a_valid_shape_of_the_stated_size(hub_id: str) -> None:
    known = find_known(hub_id)
    assert known is not None
    shape, findings = read_shape(known.config, "bundled facts")
    assert findings == ()
    assert shape is not None
    assert shape.num_parameters == known.num_parameters


def test_variants_differ_from_their_base_only_where_their_config_does() -> None:
    base, instruct = find_known("Qwen/Qwen2.5-14B"), find_known("Qwen/Qwen2.5-14B-Instruct")
    assert base is not None
    assert instruct is not None
    changed = {key for key in base.config if base.config[key] != instruct.config[key]}
    assert changed == {"max_position_embeddings", "rms_norm_eps"}


def test_there_are_variants_beside_the_published_bases() -> None:
    assert set(PUBLISHED) < set(known_ids())


def test_an_id_that_is_spelt_otherwise_is_not_known() -> None:
    assert find_known("qwen/qwen2.5-7b") is None
