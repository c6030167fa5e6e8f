"""The command line and its errors; the texts are what a user reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import approx_fx
from approx_fx import cli
from approx_fx.bench import target
from approx_fx.bench.code_peak import code_peak
from approx_fx.bench.compare import compare
from approx_fx.bench.target import load, loss_inside
from approx_fx.config import Config
from approx_fx.errors import ApproxFxError
from tests.support.nets import ConvBnRelu, images

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "approx_fx.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.cpp
def test_explain_prints_the_contract() -> None:
    done = run("explain", "models.mlp:mlp", "--batch", "64", "--bits", "4", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["ratio"] > 7 and data["options"]["bits"] == 4
    assert {"schema", "saved_bytes", "ratio", "tensors", "kept"} <= set(data)


@pytest.mark.cpp
def test_explain_takes_a_file_and_bfloat16(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "import torch\n"
        "def make(batch):\n"
        "    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 8))\n"
        "    return model, (torch.randn(batch, 64),), lambda out: out.square().sum()\n"
    )
    full, half = (
        run("explain", f"{path}:make", "--json"),
        run("explain", f"{path}:make", "--json", "--dtype", "bfloat16"),
    )
    assert full.returncode == half.returncode == 0, full.stderr + half.stderr
    assert json.loads(full.stdout)["saved_bytes"]["before"] > json.loads(half.stdout)["saved_bytes"]["before"]
    loaded = load(f"{path}:make")
    step = loss_inside(loaded.model, loaded.loss)
    assert json.loads(full.stdout)["predicted_peak_bytes"] == code_peak(step, *loaded.inputs, bits=4)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["explain", "models.resnet"], "not of the form package.module:factory"),
        (["explain", "models.resnt:resnet20"], "cannot import 'models.resnt'"),
        (["explain", "models.resnet:resnet19"], "Did you mean 'resnet"),
        (["explain", "no/file.py:make"], "there is no file 'no/file.py'"),
        (["explain", "models.mlp:mlp", "--bits", "9"], "bits is a whole number from 1 to 8, or None (exact)"),
        (["explain", "models.mlp:mlp", "--bits", "exat"], "Did you mean 'exact'?"),
        (["explain", "models.mlp:mlp", "--dtype", "bfloat"], "Did you mean 'bfloat16'?"),
        (["explain", "models.mlp:mlp", "--peak", "cod"], "Did you mean 'code'?"),
        (["explain", "models.mlp:mlp", "--grid", "gausian"], "Did you mean 'gaussian'?"),
        (["explain", "models.mlp:mlp", "--batch", "0"], "the batch is 1 or more"),
        (["compare", "models.mlp:mlp", "--against", "compil"], "Did you mean 'compile'?"),
        (["compare", "models.mlp:mlp", "--against", "compile,checkpoint-hf"], "Allowed for any model: checkpoint."),
        (["compare", "models.mlp:mlp", "--steps", "0"], "--steps 0 is not allowed"),
    ],
)
def test_errors_are_sentences(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    monkey = pytest.MonkeyPatch()
    monkey.chdir(ROOT)
    monkey.setattr(sys, "argv", ["approx-fx", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    monkey.undo()
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert text in error and "Traceback" not in error


def test_a_model_whose_sizes_depend_on_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "masked.py"
    path.write_text(
        "import torch\n"
        "class Masked(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = torch.nn.Linear(8, 8)\n"
        "    def forward(self, x):\n"
        "        return self.linear(x)[x.sum(1) > 0]\n"
        "def make(batch):\n"
        "    return Masked(), (torch.randn(batch, 8),)\n"
    )
    with pytest.MonkeyPatch.context() as monkey, pytest.raises(SystemExit) as exit_:
        monkey.setattr(sys, "argv", ["approx-fx", "explain", f"{path}:make"])
        cli.main()
    assert exit_.value.code == 2
    assert "cannot be traced on fake tensors, which have no data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (3, "returned a int; a factory returns (model, inputs)"),
        ((1, 2, 3, 4), "returned 4 values"),
        ((1, (2,)), "returned a int as the model"),
        ((nn.Linear(1, 1), 2), "returned inputs of type int"),
        ((nn.Linear(1, 1), (2,), 3), "returned a int as the loss"),
    ],
)
def test_a_factory_that_returns_something_else(made: object, text: str) -> None:
    with pytest.raises(ApproxFxError) as error:
        target._checked("net:make", made)
    assert text in str(error.value)


def test_a_factory_may_return_keyword_arguments(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(64, 64)\n"
        "    def forward(self, *, x, bits=None):\n"
        "        return torch.tanh(self.layer(x))\n"
        "def make(batch):\n"
        "    return Net(), {'x': torch.randn(batch, 64), 'bits': torch.ones(1)}\n"
    )
    done = run("explain", f"{file}:make", "--batch", "64", "--bits", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["options"]["bits"] == 2


def test_options_are_validated() -> None:
    model = ConvBnRelu()
    with pytest.raises(ApproxFxError, match=r"unknown option 'bit'\. Did you mean 'bits'\? Allowed: bits, exact"):
        approx_fx.convert(model, bit=4)
    with pytest.raises(ApproxFxError, match="bits=16 is not allowed"):
        approx_fx.convert(model, bits=16)
    with pytest.raises(ApproxFxError, match="bits=True is not allowed"):
        Config(bits=True)
    with pytest.raises(ApproxFxError, match=r"compiler='induktor' is not allowed.*Did you mean 'inductor'\?"):
        Config(compiler="induktor")
    with pytest.raises(ApproxFxError, match="group=4 is not allowed: group is a whole number, 8 or more"):
        Config(group=4)
    compiled = torch.compile(model, backend="approx_fx", options={"btis": 4})
    with pytest.raises(Exception, match="Did you mean 'bits'"):
        compiled(images())


def test_a_model_without_trainable_parameters() -> None:
    model = ConvBnRelu().requires_grad_(False)
    with pytest.raises(ApproxFxError, match=r"no trainable parameter .* Call model\.requires_grad_"):
        approx_fx.explain(model, images())
    assert approx_fx.explain(model, images().requires_grad_(), min_bytes=256).ratio > 1  # a frozen model's input trains
    with pytest.raises(ApproxFxError, match=r"torch\.nn\.Module is expected"):
        approx_fx.convert(torch.relu)  # type: ignore[type-var]


def test_noise_loss_needs_a_float_output() -> None:
    with pytest.raises(ApproxFxError, match="give the factory a loss"):
        target.noise_loss(torch.ones(3, dtype=torch.int64))


@pytest.mark.cpp
def test_compare_measures_what_the_contract_names() -> None:
    result = compare("models.mlp:mlp", 64, Config(bits=4, compiler="eager"), steps=2, against=("compile", "eager"))
    assert set(result["runs"]) == {"approx_fx", "compile", "eager"}
    for name in ("step_seconds", "compile_seconds", "peak_bytes", "saved_bytes"):
        assert all(run[name] > 0 for run in result["runs"].values())
    assert set(result["ratio"]) == {"step", "compile", "peak", "saved"}
    assert result["ratio"]["saved"] > 7 and result["gradient"]["cosine"] > 0.99
    assert 0 < result["gradient"]["relative_error"] < 0.2
    assert isinstance(result["loss_equal"], bool)


def test_check_prints_the_contract(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(
        "import torch\n"
        "from torch import nn\n"
        "def make(batch):\n"
        "    layers = [nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)]\n"
        "    images = (torch.rand(batch, 1, 32, 32) < 0.005).float() * 3\n"
        "    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(16, 4, 3)), (images,)\n"
    )
    done = run("check", f"{path}:make", "--batch", "16", "--json", "--plot", str(tmp_path / "check.png"))
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert {"tensors", "gradient"} <= set(data) and data["gradient"]["cosine"] > 0.97
    keys = {"module", "op", "encoding", "bits", "promised", "measured", "action"}
    assert data["tensors"] and all(keys <= set(row) for row in data["tensors"])
    assert any(row["action"] for row in data["tensors"])
    assert (tmp_path / "check.png").stat().st_size > 10_000


def test_check_of_exact_bits_is_a_sentence() -> None:
    done = run("check", "models.mlp:mlp", "--bits", "exact")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "approx-fx: --bits exact leaves nothing to check: give a whole number from 1 to 8."
    )
