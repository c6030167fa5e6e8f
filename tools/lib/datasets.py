"""Data sets as tensors in memory: digits, CIFAR-10 (JPEG) and Fashion-MNIST."""

from __future__ import annotations

import gzip
import io
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tools.lib.repo_path import ROOT
from tools.lib.user_errors import UserError, pick

Bytes = npt.NDArray[np.uint8]

CIFAR10_FILE = "cifar10_jpeg.npz"
FASHION_PACKAGE = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """Images and labels of one data set.

    Attributes:
        train_x: float32 or uint8 [N, C, H, W], as stored, not normalised.
        train_y: int64 [N], 0 .. len(classes) - 1.
        test_x: like train_x.
        test_y: like train_y.
        classes: names of the classes.
        title: what to call the data in a report.
        mean: float32 [C, 1, 1], per channel over the training images, in the units of train_x.
        std: float32 [C, 1, 1], likewise.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: tuple[str, ...]
    title: str
    mean: Tensor
    std: Tensor

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        channels, height, width = self.train_x.shape[1:]
        return channels, height, width

    def normalise(self, x: Tensor) -> Tensor:
        """float32 [B, C, H, W] with mean 0 and standard deviation 1 per channel over the training images."""
        return (x.float() - self.mean) / self.std

    def to(self, device: torch.device) -> Dataset:
        """Copy the data set to `device`."""
        return replace(
            self,
            train_x=self.train_x.to(device),
            train_y=self.train_y.to(device),
            test_x=self.test_x.to(device),
            test_y=self.test_y.to(device),
            mean=self.mean.to(device),
            std=self.std.to(device),
        )


def load(name: str, root: Path | None = None) -> Dataset:
    """Load the data set `name`.

    Args:
        name: digits, cifar10 or fashion-mnist.
        root: folder searched first for the files; then $APPROX_FX_DATA, then data/ in the repository and
            ../shared/data/ beside it (fashion-mnist: also where Debian's package puts it).

    Raises:
        UserError: unknown name, `root` is not a folder, or the files are missing or damaged.
    """
    if root is not None and not root.is_dir():
        raise UserError(f"The data folder {root} does not exist; give a folder, or none for the usual places.")
    return LOADERS[pick("data set", name, LOADERS)](root)


def upscale(dataset: Dataset, factor: int) -> Dataset:
    """Enlarge every image of a float data set `factor` times, bilinearly: [N, C, factor H, factor W]."""

    def enlarge(x: Tensor) -> Tensor:
        return torch.nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)

    train_x, test_x = enlarge(dataset.train_x), enlarge(dataset.test_x)
    return make(train_x, dataset.train_y, test_x, dataset.test_y, dataset.classes, dataset.title)


def shrink(dataset: Dataset, factor: int) -> Dataset:
    """Average every image over factor x factor pixels: [N, C, H / factor, W / factor]."""
    if factor == 1:
        return dataset

    def average(x: Tensor) -> Tensor:
        return torch.cat([torch.nn.functional.avg_pool2d(part.float(), factor) for part in x.split(4096)])

    _, height, width = dataset.image_shape
    title = f"{dataset.title}, {height // factor}x{width // factor}"
    train_x, test_x = average(dataset.train_x), average(dataset.test_x)
    return make(train_x, dataset.train_y, test_x, dataset.test_y, dataset.classes, title)


def make(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, classes: tuple[str, ...], title: str
) -> Dataset:
    """Build a Dataset with mean and std computed from `train_x` [N, C, H, W] and labels as int64."""
    channels = train_x.shape[1]
    per_channel = train_x.transpose(0, 1).reshape(channels, -1)
    std, mean = zip(*(torch.std_mean(channel.float()) for channel in per_channel), strict=True)
    return Dataset(
        train_x=train_x,
        train_y=train_y.long(),
        test_x=test_x,
        test_y=test_y.long(),
        classes=classes,
        title=title,
        mean=torch.stack(mean).view(channels, 1, 1),
        std=torch.stack(std).clamp_min(1e-6).view(channels, 1, 1),
    )


def folders(root: Path | None) -> list[Path]:
    """The folders in which data files are looked for, in order."""
    named = [root] if root is not None else []
    variable = os.environ.get("APPROX_FX_DATA")
    return [*named, *([Path(variable)] if variable else []), ROOT / "data", ROOT.parent / "shared" / "data"]


def _digits(root: Path | None) -> Dataset:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
        from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise UserError("The digits are part of scikit-learn, which is missing: pip install scikit-learn.") from error
    images, labels = load_digits().images / 16.0, load_digits().target
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)

    def image(x: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(x).float().unsqueeze(1)

    classes = tuple(str(digit) for digit in range(10))
    return make(image(train_x), torch.from_numpy(train_y), image(test_x), torch.from_numpy(test_y), classes, "digits")


def _cifar10(root: Path | None) -> Dataset:
    places = folders(root)
    path = next((place / CIFAR10_FILE for place in places if (place / CIFAR10_FILE).is_file()), None)
    if path is None:
        raise UserError(
            f"CIFAR-10 needs the file {CIFAR10_FILE}, looked for in {', '.join(map(str, places))}. "
            "Put it in data/, or name its folder with --root or in the environment variable APPROX_FX_DATA."
        )
    with np.load(path, allow_pickle=False) as stored:
        missing = {"train_jpeg", "train_offsets", "train_labels", "test_jpeg", "test_offsets", "test_labels", "classes"}
        missing -= set(stored.files)
        if missing:
            raise UserError(f"{path} has no array {', '.join(sorted(missing))}; is it the right file?")
        key = f"{path.stem}-{path.stat().st_size}"
        train_x = _cached(f"{key}-train.npy", lambda: _decode(stored["train_jpeg"], stored["train_offsets"]))
        test_x = _cached(f"{key}-test.npy", lambda: _decode(stored["test_jpeg"], stored["test_offsets"]))
        train_y, test_y = torch.from_numpy(stored["train_labels"]), torch.from_numpy(stored["test_labels"])
        classes = tuple(str(name) for name in stored["classes"])
    return make(torch.from_numpy(train_x), train_y, torch.from_numpy(test_x), test_y, classes, "CIFAR-10 (JPEG)")


def _decode(stream: Bytes, offsets: npt.NDArray[np.int64]) -> Bytes:
    """Decode concatenated JPEG files, file i at offsets[i] .. offsets[i + 1], to uint8 [N, C, H, W]."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise UserError("Decoding CIFAR-10 (JPEG) needs Pillow, which is missing: pip install pillow.") from error
    data = stream.tobytes()
    files = [data[start:end] for start, end in itertools.pairwise(offsets)]
    images = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _cached(name: str, decode: Callable[[], Bytes]) -> Bytes:
    """The array in `.cache/NAME`, decoded and stored at the first call; storing may fail, which only costs time."""
    path = ROOT / ".cache" / name
    if path.is_file():
        array: Bytes = np.load(path, allow_pickle=False)
        return array
    array = decode()
    try:
        path.parent.mkdir(exist_ok=True)
        (path.parent / ".gitignore").write_text("*\n")
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, array)
        os.replace(temporary, path)
    except OSError:
        pass
    return array


def _fashion_mnist(root: Path | None) -> Dataset:
    places = [*(place / "fashion-mnist" for place in folders(root)), *([root] if root else []), FASHION_PACKAGE]
    folder = next((place for place in places if (place / "train-images-idx3-ubyte.gz").is_file()), None)
    if folder is None:
        raise UserError(
            f"Fashion-MNIST was not found in {', '.join(map(str, places))}. On Debian or Ubuntu: "
            "apt-get install dataset-fashion-mnist. Elsewhere put its four idx-ubyte.gz files in data/fashion-mnist/."
        )
    train_x, test_x = (_idx(folder / f"{part}-images-idx3-ubyte.gz").unsqueeze(1) for part in ("train", "t10k"))
    train_y, test_y = (_idx(folder / f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k"))
    return make(train_x, train_y, test_x, test_y, FASHION_CLASSES, "Fashion-MNIST")


def _idx(path: Path) -> Tensor:
    """Read a gzipped IDX file of bytes: 0, 0, 8, rank, then each length as 4 bytes, then the elements."""
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); fetch it again.") from error
    if data[:3] != b"\0\0\x08":
        raise UserError(f"{path} is no IDX file of bytes: it starts with {data[:4].hex()}, not 000008.")
    rank = data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    elements = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * rank)
    if elements.size != int(np.prod(shape)):
        raise UserError(f"{path} holds {elements.size} bytes of data where its shape {shape} needs another number.")
    return torch.from_numpy(elements.reshape(shape).copy())


LOADERS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "fashion-mnist": _fashion_mnist,
}
