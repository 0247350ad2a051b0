"""Does pythae itself reach 89.78, the figure of its reproducibility page, on the images of the row `pythae_vae`?

    pip install pythae==0.1.2
    python benchmarks/pythae_reproduction.py FOLDER [EPOCHS]

pythae's own model, trainer and `get_nll`, with the settings of `examples/scripts/reproducibility/vae.py` in its
repository; the images are those of `experiment=pythae_vae`: the script reads another file of binarised images.
"""

import sys
from pathlib import Path

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import AutoModel
from pythae.trainers import BaseTrainer, BaseTrainerConfig

from vae_exp.benchmark.baselines import PlainNet
from vae_exp.benchmark.pythae_loop import pythae_vae
from vae_exp.data.images import ImageSet
from vae_exp.data.splits import DataSplits
from vae_exp.data.torchvision_datasets import MNISTSource


def main() -> None:
    folder = Path(sys.argv[1])
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    source = MNISTSource("MNIST", "data")
    splits = DataSplits(source, (1, 28, 28), validation_size=10_000, split_seed=0, binarization="fixed")
    torch.manual_seed(0)
    net = PlainNet(784, [400], 40, [400], "relu")
    config = BaseTrainerConfig(
        output_dir=str(folder),
        num_epochs=epochs,
        learning_rate=1e-4,
        per_device_train_batch_size=100,
        per_device_eval_batch_size=100,
        scheduler_cls="MultiStepLR",
        scheduler_params={"milestones": [200, 350, 500, 750, 1000], "gamma": 10**-0.2},
        no_cuda=True,
    )
    trainer = BaseTrainer(
        pythae_vae(net, images_of(splits.test)), dataset(splits.train), dataset(splits.val), config
    )
    trainer.train()
    best = AutoModel.load_from_folder(str(Path(trainer.training_dir) / "final_model")).eval()
    for name, model in {"best of validation": best, "last epoch": trainer.model.eval()}.items():
        with torch.no_grad():
            nll = -model.get_nll(images_of(splits.test), n_samples=200)
        print(f"{name}: {nll:.2f} nats per image")


def images_of(images: ImageSet) -> torch.Tensor:
    return images.batch(slice(None)).images


def dataset(images: ImageSet) -> BaseDataset:
    return BaseDataset(images_of(images), torch.zeros(len(images)))


if __name__ == "__main__":
    main()
