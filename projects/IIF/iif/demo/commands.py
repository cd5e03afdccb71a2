"""What ``iif openmoji`` and ``iif openmoji-crops`` do; a docstring is the command's help."""

from __future__ import annotations

from argparse import Namespace


def openmoji(args: Namespace) -> None:
    """Make a small long-tailed data set.

    Lays OpenMoji's drawings on textured backgrounds and annotates them as LVIS v1 does: long-tailed
    training, balanced validation, federated. The same arguments make the same files. A data set
    of the same arguments that is already there is kept. The images have the licence of the
    drawings, CC BY-SA 4.0.
    """
    from iif.demo.openmoji import TRAIN_JSON, VAL_JSON, make_openmoji, read_groups
    from iif.demo.plan import OpenMojiSettings

    settings = OpenMojiSettings(
        categories=args.categories,
        train=args.train,
        val=args.val,
        image_size=args.image_size,
        seed=args.seed,
    )
    folder = make_openmoji(args.out_dir, settings, workers=args.workers, overwrite=args.overwrite)
    groups = read_groups(folder)
    few = "" if all(groups.values()) else " (too few training images or categories for all three)"
    print(f"Categories: {groups['r']} rare, {groups['c']} common, {groups['f']} frequent{few}")
    print(f"Training annotations: {folder / TRAIN_JSON}")
    print(f"Validation annotations: {folder / VAL_JSON}")


def openmoji_crops(args: Namespace) -> None:
    """Make a small long-tailed data set for classification.

    Cuts OpenMoji's drawings out of textured backgrounds, as many of each kind as CIFAR-LT's rule
    says for training and equally many for test. The same arguments make the same images; they have
    the licence of the drawings, CC BY-SA 4.0.
    """
    from iif.demo.openmoji_crops import CropSettings, make_openmoji_crops

    settings = CropSettings(
        categories=args.categories,
        largest=args.largest,
        imbalance_factor=args.imbalance_factor,
        test=args.test,
        image_size=args.image_size,
        seed=args.seed,
    )
    folder = make_openmoji_crops(args.out_dir, settings)
    print(f"Training and test images, a folder for each kind: {folder}")
