"""A loop of one's own with Accelerate: the model is converted before it is prepared."""

import result
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import approx_fx

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
)  # fmt: skip
labels = torch.arange(128) % 10
images = torch.randn(128, 3, 32, 32) + labels.view(-1, 1, 1, 1)
loader = DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)
watch = result.Watch(model)

approx_fx.convert(model, bits=4)

accelerator = Accelerator(cpu=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
losses = []
for _ in range(4):
    for x, target in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        accelerator.backward(loss)
        optimizer.step()
        losses.append(loss.item())

watch.show(model, losses, lambda: nn.functional.cross_entropy(model(images[:32]), labels[:32]))
