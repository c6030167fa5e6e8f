"""Long short-term memory: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000, on characters.

`char_lstm` is written out cell by cell, `nn_lstm` the same network of torch.nn.LSTM.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.factory import TextExample, seeded_text


class Cell(nn.Module):
    """One layer of LSTM over a sequence: (N, T, inputs) -> (N, T, width), one step after the other."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.input, self.hidden = nn.Linear(inputs, 4 * width), nn.Linear(width, 4 * width, bias=False)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, inputs) -> (N, T, width)."""
        h = c = x.new_zeros(len(x), self.width)
        outputs = []
        for part in self.input(x).unbind(1):
            i, f, g, o = (part + self.hidden(h)).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, dim=1)


class CharLSTM(nn.Module):
    """Characters int64 (N, T) -> logits (N, T, vocabulary)."""

    def __init__(self, depth: int, width: int, vocabulary: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.layers = nn.Sequential(*(Cell(width, width) for _ in range(depth)))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, T, vocabulary)."""
        return self.head(self.layers(self.token(tokens)))


def char_lstm_net(vocabulary: int = 128) -> CharLSTM:
    """Two layers of width 256; 1,116,288 parameters by default."""
    return CharLSTM(2, 256, vocabulary)


def char_lstm(batch: int = 32, length: int = 32) -> TextExample:
    """Seeded `char_lstm_net`: characters (batch, 32) -> logits (batch, 32, 128), next-character loss."""
    return seeded_text(char_lstm_net, batch, length, 128)


class LayersLSTM(nn.Module):
    """Characters int64 (N, T) -> logits (N, T, vocabulary), by torch.nn.LSTM."""

    def __init__(self, depth: int, width: int, vocabulary: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.layers = nn.LSTM(width, width, depth, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, T, vocabulary)."""
        return self.head(self.layers(self.token(tokens))[0])


def nn_lstm_net(vocabulary: int = 128) -> LayersLSTM:
    """Two layers of width 512; 4,333,696 parameters by default."""
    return LayersLSTM(2, 512, vocabulary)


def nn_lstm(batch: int = 32, length: int = 256) -> TextExample:
    """Seeded `nn_lstm_net`: characters (batch, 256) -> logits (batch, 256, 128), next-character loss."""
    return seeded_text(nn_lstm_net, batch, length, 128)
