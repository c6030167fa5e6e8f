"""The models of tools/zoo.py: torchvision's families and transformers' architectures, built small and offline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# () -> (model, inputs)
Entry = Callable[[], tuple[nn.Module, tuple[Any, ...]]]

# name, image size
VISION = {
    "alexnet": 128,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 64,
    "inception_v3": 128,
    "maxvit_t": 224,
    "mnasnet1_0": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x1_0": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11_bn": 64,
    "vit_b_16": 224,
    "wide_resnet50_2": 64,
}
SEGMENTATION = {"deeplabv3_mobilenet_v3_large": 64, "fcn_resnet50": 64, "lraspp_mobilenet_v3_large": 64}
INPUT = {"lraspp_mobilenet_v3_large": "input"}
AUXILIARY = {"googlenet", "inception_v3"}
BATCH, LENGTH, WIDTH, VOCABULARY = 8, 64, 128, 256

NARROW: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256,
    "vocab_size": VOCABULARY, "max_position_embeddings": 128, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
SEQ2SEQ: dict[str, Any] = {
    "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "vocab_size": VOCABULARY,
    "max_position_embeddings": 128, "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 32, "attention_dropout": 0.0}
IMAGE: dict[str, Any] = {"image_size": 64, "patch_size": 8, "num_channels": 3}
AUDIO: dict[str, Any] = {
    "conv_dim": (64, 64), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "hidden_dropout": 0.0, "feat_proj_dropout": 0.0,
    "attention_dropout": 0.0, "activation_dropout": 0.0, "final_dropout": 0.0, "layerdrop": 0.0,
    "apply_spec_augment": False,
}  # fmt: skip

# architecture, kind of input, configuration beside NARROW
TEXT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", "text", {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 128,
             "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "vocab_size": VOCABULARY}),
    "llama": ("LlamaForCausalLM", "text", {**NARROW, **GROUPED}),
    "mistral": ("MistralForCausalLM", "text", {**NARROW, **GROUPED}),
    "qwen2": ("Qwen2ForCausalLM", "text", {**NARROW, **GROUPED}),
    "qwen3": ("Qwen3ForCausalLM", "text", {**NARROW, **GROUPED}),
    "gemma": ("GemmaForCausalLM", "text", {**NARROW, **GROUPED}),
    "phi": ("PhiForCausalLM", "text", {**NARROW, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attention_dropout": 0.0}),
    "gpt_neox": ("GPTNeoXForCausalLM", "text", {**NARROW, "hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "opt": ("OPTForCausalLM", "text", {**NARROW, "ffn_dim": 256, "word_embed_proj_dim": WIDTH, "dropout": 0.0,
            "attention_dropout": 0.0}),
    "bloom": ("BloomForCausalLM", "text", {**NARROW, "n_layer": 2, "n_head": 4, "hidden_dropout": 0.0,
              "attention_dropout": 0.0}),
    "falcon": ("FalconForCausalLM", "text", {**NARROW, "hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "stablelm": ("StableLmForCausalLM", "text", {**NARROW, "num_key_value_heads": 4, "hidden_dropout": 0.0,
                 "attention_dropout": 0.0}),
    "mixtral": ("MixtralForCausalLM", "text", {**NARROW, **GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "bert": ("BertForMaskedLM", "text", NARROW),
    "roberta": ("RobertaForMaskedLM", "text", {**NARROW, "max_position_embeddings": 130}),
    "electra": ("ElectraForMaskedLM", "text", {**NARROW, "embedding_size": WIDTH}),
    "albert": ("AlbertForMaskedLM", "text", {**NARROW, "embedding_size": WIDTH}),
    "distilbert": ("DistilBertForMaskedLM", "text", {"dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 256,
                   "vocab_size": VOCABULARY, "dropout": 0.0, "attention_dropout": 0.0}),
    "mpnet": ("MPNetForMaskedLM", "text", {**NARROW, "max_position_embeddings": 130}),
    "t5": ("T5ForConditionalGeneration", "pair", {"d_model": WIDTH, "d_kv": 32, "d_ff": 256, "num_layers": 2,
           "num_heads": 4, "vocab_size": VOCABULARY, "dropout_rate": 0.0, "decoder_start_token_id": 0}),
    "bart": ("BartForConditionalGeneration", "pair", SEQ2SEQ),
    "marian": ("MarianMTModel", "pair", SEQ2SEQ),
    "whisper": ("WhisperForConditionalGeneration", "speech", {**SEQ2SEQ, "num_mel_bins": 32,
                "max_source_positions": 64, "max_target_positions": 128}),
    "vit": ("ViTForImageClassification", "image", {**NARROW, **IMAGE}),
    "deit": ("DeiTForImageClassification", "image", {**NARROW, **IMAGE}),
    "beit": ("BeitForImageClassification", "image", {**NARROW, **IMAGE, "drop_path_rate": 0.0}),
    "dinov2": ("Dinov2ForImageClassification", "image", {**NARROW, **IMAGE}),
    "convnextv2": ("ConvNextV2ForImageClassification", "image", {"hidden_sizes": [32, 64], "depths": [1, 2],
                   "num_stages": 2, "image_size": 64}),
    "segformer": ("SegformerForSemanticSegmentation", "image", {"hidden_sizes": [32, 64], "depths": [1, 1],
                  "num_encoder_blocks": 2, "sr_ratios": [4, 2], "strides": [4, 2], "patch_sizes": [7, 3],
                  "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 64,
                  "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout_prob": 0.0,
                  "drop_path_rate": 0.0}),
    "wav2vec2": ("Wav2Vec2ForCTC", "audio", {**NARROW, **AUDIO}),
    "hubert": ("HubertForCTC", "audio", {**NARROW, **AUDIO}),
}  # fmt: skip


class SingleOutput(nn.Module):
    """Wraps a model that takes keywords and returns a mapping, as a module that returns one tensor of it."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], key: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.names, self.key, self.options = model, names, key, options

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the model with the inputs named by `names`; return its output `key`."""
        output = self.model(**dict(zip(self.names, inputs, strict=True)), **self.options)
        return output[self.key]


def without_dropout(model: nn.Module) -> nn.Module:
    """Put the model in train mode with every drop rate 0, so that two runs of it are comparable."""
    for module in model.modules():
        for name in ("p", "drop_prob"):
            if "Drop" in type(module).__name__ or "StochasticDepth" in type(module).__name__:
                setattr(module, name, 0.0)
    return model.train()


def vision(name: str) -> Entry:
    """A torchvision classifier or segmentation network with fresh weights."""

    def build() -> tuple[nn.Module, tuple[Any, ...]]:
        import torchvision.models as models

        size = VISION.get(name) or SEGMENTATION[name]
        if name in SEGMENTATION:
            model = getattr(models.segmentation, name)(weights=None, weights_backbone=None, num_classes=8)
            model = SingleOutput(model, (INPUT.get(name, "x"),), "out", {})
        else:
            extra = {"aux_logits": False, "init_weights": True} if name in AUXILIARY else {}
            model = getattr(models, name)(weights=None, num_classes=100, **extra)
        batch = 2 if size > 200 else BATCH
        return without_dropout(model), (torch.randn(batch, 3, size, size),)

    return build


def text(name: str) -> Entry:
    """A transformers architecture of two layers and width 128 with fresh weights."""

    def build() -> tuple[nn.Module, tuple[Any, ...]]:
        import transformers

        architecture, kind, options = TEXT[name]
        kind_of = getattr(transformers, architecture)
        model = kind_of(kind_of.config_class(**options))
        tokens = torch.randint(3, VOCABULARY, (BATCH, LENGTH))
        cache = {"use_cache": False} if kind in ("text", "pair", "speech") and "MaskedLM" not in architecture else {}
        wrapped: nn.Module
        inputs: tuple[Any, ...]
        if kind == "text":
            wrapped, inputs = SingleOutput(model, ("input_ids",), "logits", cache), (tokens,)
        elif kind == "pair":
            wrapped, inputs = SingleOutput(model, ("input_ids", "decoder_input_ids"), "logits", cache), (tokens, tokens)
        elif kind == "speech":
            sound = torch.randn(BATCH, 32, 2 * LENGTH)
            wrapped, inputs = (
                SingleOutput(model, ("input_features", "decoder_input_ids"), "logits", cache),
                (sound, tokens),
            )
        elif kind == "image":
            wrapped, inputs = SingleOutput(model, ("pixel_values",), "logits", {}), (torch.randn(BATCH, 3, 64, 64),)
        else:
            wrapped, inputs = SingleOutput(model, ("input_values",), "logits", {}), (torch.randn(BATCH, 1600),)
        return without_dropout(wrapped), inputs

    return build


class Recurrent(nn.Module):
    """Tokens (N, T) -> logits (N, T, VOCABULARY) by two layers of torch.nn.LSTM, GRU or RNN."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.token, self.layers = nn.Embedding(VOCABULARY, WIDTH), kind(WIDTH, WIDTH, 2, batch_first=True, **options)
        self.head = nn.LazyLinear(VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits for each token."""
        return self.head(self.layers(self.token(tokens))[0])


RECURRENT: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (nn.LSTM, {}),
    "lstm_bidirectional": (nn.LSTM, {"bidirectional": True}),
    "gru": (nn.GRU, {}),
    "rnn_tanh": (nn.RNN, {}),
}


def recurrent(name: str) -> Entry:
    """A recurrent network of torch's layers with fresh weights."""

    def build() -> tuple[nn.Module, tuple[Any, ...]]:
        kind, options = RECURRENT[name]
        model, tokens = Recurrent(kind, **options), torch.randint(VOCABULARY, (BATCH, LENGTH))
        model(tokens)  # sizes the lazy head
        return model, (tokens,)

    return build


ZOO: dict[str, Entry] = {
    **{f"torch/{name}": recurrent(name) for name in RECURRENT},
    **{f"torchvision/{name}": vision(name) for name in (*VISION, *SEGMENTATION)},
    **{f"transformers/{name}": text(name) for name in TEXT},
}
