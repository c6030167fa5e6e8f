"""torch.distributed.fsdp: the parameters that sharded modules compute with."""

from __future__ import annotations

import sys

from torch import nn


def unsharded_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The gathered parameters of the modules that `fully_shard` was applied to, which `model.parameters()` leaves out.

    Those of modules that have not run yet do not exist.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return []
    parameters = []
    for module in model.modules():
        group = module._get_fsdp_state()._fsdp_param_group if isinstance(module, fsdp.FSDPModule) else None
        for sharded in group.fsdp_params if group is not None else []:
            if (parameter := getattr(sharded, "_unsharded_param", None)) is not None:
                parameters.append(parameter)
    return parameters
