"""timm's training loop, as in its train.py: its model, mixup, loss, optimizer, scheduler and averaged weights."""

import result
import torch
from timm import create_model
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

import approx_fx

torch.manual_seed(0)
model = create_model("vit_tiny_patch16_224", num_classes=10, img_size=64, embed_dim=128, depth=2, num_heads=4)
labels = torch.arange(128) % 10
images = torch.randn(128, 3, 64, 64) + (labels.view(-1, 1, 1, 1) - 4.5) / 3
watch = result.Watch(model)

approx_fx.convert(model, bits=4)

averaged = ModelEmaV3(model, decay=0.9)
optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=4, warmup_epochs=1, warmup_lr=1e-4)
mixup, loss_of = Mixup(mixup_alpha=0.2, num_classes=10), SoftTargetCrossEntropy()
losses = []
for epoch in range(epochs):
    model.train()
    for start in range(0, 128, 32):
        x, target = mixup(images[start : start + 32], labels[start : start + 32])
        loss = loss_of(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update(model)
        losses.append(loss.item())
    scheduler.step(epoch + 1)

targets = torch.nn.functional.one_hot(labels[:32], 10).float()
watch.show(model, losses, lambda: loss_of(model(images[:32]), targets))
