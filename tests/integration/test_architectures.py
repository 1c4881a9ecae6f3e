"""Architectures of Transformers from tiny configurations, in training mode: tuned, and left as they were."""

import inspect

import numpy as np
import pytest
import torch
from harness import unchanged

transformers = pytest.importorskip("transformers")

from autolr import AutoLRTuner  # noqa: E402 (after what skips)

pytestmark = pytest.mark.integration
RATES = [1e-5, 1e-4, 1e-3, 1e-2]
BATCH, LENGTH, WORDS = 4, 6, 23


def tokens(generator):
    return torch.randint(3, WORDS, (BATCH, LENGTH), generator=generator)


def classified(generator):
    return {"input_ids": tokens(generator), "labels": torch.randint(0, 2, (BATCH,), generator=generator)}


def continued(generator):
    ids = tokens(generator)
    return {"input_ids": ids, "labels": ids}


def translated(generator):
    return {"input_ids": tokens(generator), "labels": tokens(generator)}


def seen(generator, size=16):
    pixels = torch.randn(BATCH, 3, size, size, dtype=torch.float64, generator=generator)
    return {"pixel_values": pixels, "labels": torch.randint(0, 2, (BATCH,), generator=generator)}


def heard(generator):
    sound = torch.randn(BATCH, 400, dtype=torch.float64, generator=generator)
    return {"input_values": sound, "labels": torch.randint(1, WORDS, (BATCH, 3), generator=generator)}


def transcribed(generator):
    features = torch.randn(BATCH, 8, 20, dtype=torch.float64, generator=generator)
    return {"input_features": features, "labels": tokens(generator)}


def paired(generator):
    return {
        "input_ids": tokens(generator),
        "pixel_values": seen(generator)["pixel_values"],
        "return_loss": True,
    }


ENCODER = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
DECODER = {**ENCODER, "num_key_value_heads": 1, "attention_dropout": 0.1, "pad_token_id": 0}
PIXELS = {"image_size": 16, "num_channels": 3}
SIDE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SEQUENCES = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "vocab_size": WORDS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
# by the name of the model's class: that of its configuration, what is in it, and batches
ARCHITECTURES = {
    "BertForSequenceClassification": ("BertConfig", ENCODER, classified),
    "AlbertForSequenceClassification": ("AlbertConfig", {**ENCODER, "embedding_size": 8}, classified),  # shares layers
    "DistilBertForSequenceClassification": (
        "DistilBertConfig",
        {"vocab_size": WORDS, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16},
        classified,
    ),
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": WORDS, "n_embd": 16, "n_layer": 2, "n_head": 2}, continued),
    "LlamaForCausalLM": ("LlamaConfig", DECODER, continued),
    "MixtralForCausalLM": (
        "MixtralConfig",
        # eager: the faster way has no float64
        {**DECODER, "num_local_experts": 3, "output_router_logits": True, "experts_implementation": "eager"},
        continued,
    ),
    "MambaForCausalLM": (
        "MambaConfig",
        {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4},
        continued,
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        {
            "vocab_size": WORDS,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 16,
            "num_layers": 1,
            "num_heads": 2,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
        },
        translated,
    ),
    "BartForConditionalGeneration": ("BartConfig", SEQUENCES, translated),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        {**SEQUENCES, "num_mel_bins": 8, "max_source_positions": 10, "dropout": 0.1},
        transcribed,
    ),
    "Wav2Vec2ForCTC": (
        "Wav2Vec2Config",
        {
            **ENCODER,
            "conv_dim": (8, 8),
            "conv_stride": (5, 5),
            "conv_kernel": (10, 5),
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            "mask_time_prob": 0.0,
        },
        heard,
    ),
    "ViTForImageClassification": (
        "ViTConfig",
        {**SIDE, **PIXELS, "patch_size": 8, "hidden_dropout_prob": 0.1},
        seen,
    ),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        {"hidden_sizes": [4, 8], "depths": [1, 1], "num_stages": 2, "patch_size": 4, "drop_path_rate": 0.1},
        seen,
    ),
    "ResNetForImageClassification": (  # with batch statistics
        "ResNetConfig",
        {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"},
        seen,
    ),
    "CLIPModel": (  # a loss that compares the observations of a batch
        "CLIPConfig",
        {
            "text_config": {**SIDE, "vocab_size": WORDS, "attention_dropout": 0.1, "eos_token_id": 2},
            "vision_config": {**SIDE, **PIXELS, "patch_size": 8, "attention_dropout": 0.1},
            "projection_dim": 8,
        },
        paired,
    ),
}


def architecture(name):
    """Return a model in training mode, and some batches."""
    configuration, entries, batch = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, configuration)(**entries))
    generator = torch.Generator().manual_seed(1)
    return model.double().train(), [batch(generator) for _ in range(6)]


def tuned(model, optimizer, batches, **options):
    tuner = AutoLRTuner(model, optimizer=optimizer, rng=0)
    with unchanged(model, optimizer):
        return tuner.tune(batches, learning_rates=RATES, num_subsamples=3, progress=False, **options)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_ends_as_it_began_and_the_engines_agree_or_say_why_not(name):
    model, batches = architecture(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    reference = tuned(model, optimizer, batches, engine="step").differentials
    line = tuned(model, optimizer, batches, engine="line")
    assert line.settings["engine"] == "line" or "stepped aside: " in line.settings["engine_reason"]
    np.testing.assert_allclose(line.differentials.loss_pre, reference.loss_pre, rtol=1e-6)
    np.testing.assert_allclose(line.differentials.loss_post, reference.loss_post, rtol=1e-6)
    assert np.ptp(reference.loss_post) > 0.0


def every_optimizer():
    kinds = [kind for _, kind in inspect.getmembers(torch.optim, inspect.isclass)]
    return [kind for kind in kinds if issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer]


def made(kind, model):
    """Return an optimizer of a kind, over the parameters of a model that it can take."""
    parameters = list(model.parameters())
    if kind is torch.optim.Muon:
        parameters = [parameter for parameter in parameters if parameter.ndim == 2]
    if kind is torch.optim.SparseAdam:
        *_, embedding = (part for part in model.modules() if isinstance(part, torch.nn.Embedding))
        embedding.sparse = True  # the last one: of positions or types, which no output layer shares
        parameters = [embedding.weight]
    return kind(parameters, lr=1e-3)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "GPT2LMHeadModel"])
@pytest.mark.parametrize("kind", every_optimizer())
def test_every_optimizer_of_torch_tunes_an_encoder_and_a_decoder(kind, name):
    model, batches = architecture(name)
    optimizer = made(kind, model)
    reference = tuned(model, optimizer, batches, engine="step").differentials
    for engine in ("line", "auto"):
        fast = tuned(model, optimizer, batches, engine=engine)
        assert engine == "auto" or fast.settings["engine"] == "line" or "aside: " in fast.settings["engine_reason"]
        np.testing.assert_allclose(fast.differentials.loss_post, reference.loss_post, rtol=1e-6)
    assert np.ptp(reference.loss_post) > 0.0


def test_all_optimizers_of_torch_are_among_them():
    assert {"Adafactor", "LBFGS", "Muon", "SparseAdam"} < {kind.__name__ for kind in every_optimizer()}
