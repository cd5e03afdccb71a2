"""The configuration keys that IIF adds to Detectron2's, each defined by the comment above it."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_iif_config(cfg: CN) -> None:
    """Add IIF's keys with their defaults to ``cfg``; no key of Detectron2 is changed."""
    # Data sets to register by name, so that DATASETS.TRAIN and DATASETS.TEST can use them: a list
    # of [name, annotation file, image folder]. The file is in LVIS's or COCO's format (told apart
    # by its content). Paths may hold ~ and $VARIABLES and are relative to the working directory.
    cfg.DATASETS.CUSTOM = []
    # The part of the images of DATASETS.TRAIN, chosen by their ids, that is left out of training
    # for "iif tune-strength". They still count for the class frequencies.
    cfg.DATASETS.HELD_OUT = 0.0

    cfg.MODEL.IIF = CN()
    # How a class's weight follows from its frequency: raw, smooth, prob, normit, gombit, base2 or
    # base10 (formulas: iif.weights). "none" is the plain baseline, equal to Detectron2's predictor.
    # It takes effect where MODEL.ROI_HEADS.NAME is "IIFROIHeads".
    cfg.MODEL.IIF.VARIANT = "raw"
    # What is counted: "image" (training images that show the class, of all training images) or
    # "instance" (instances of the class, of all instances; the paper's object form, IOF).
    cfg.MODEL.IIF.COUNT_BY = "image"
    # The number N of training images, where it is to differ from that of the counts' source;
    # 0 takes the source's.
    cfg.MODEL.IIF.NUM_IMAGES = 0
    # What to do about a class that was never seen, whose weight would be infinite: "error", or
    # "clamp" to count it as seen once.
    cfg.MODEL.IIF.ZERO_COUNT = "error"
    # What to do about a weight that is zero or negative, which would turn the logit round ("prob"
    # and "normit" of a class in more than half of the images): "error", or "clamp" to raise it to
    # the smallest positive weight of another class.
    cfg.MODEL.IIF.NONPOSITIVE = "error"
    # The weights w are used as w ** STRENGTH: 1 is IIF, 0 the plain baseline.
    cfg.MODEL.IIF.STRENGTH = 1.0
    # When the logits are adjusted: "train_and_test", or "test" to train and load a plain model and
    # adjust its logits, relative to the background's, at inference alone (post-hoc).
    cfg.MODEL.IIF.APPLY = "train_and_test"

    # The classifier, with IIF or without it: "linear", or "cosine" for
    # COSINE_TEMPERATURE * cos(feature, weight) + bias.
    cfg.MODEL.IIF.CLASSIFIER = "linear"
    # The authors use 8 with IIF and 20 without it.
    cfg.MODEL.IIF.COSINE_TEMPERATURE = 8.0
    # How the classifier starts: "normal" as in Detectron2 (weights from N(0, 0.01^2), bias 0), or
    # "constant" as the authors' IIF models with a linear classifier (all weights 0.001, bias 0).
    cfg.MODEL.IIF.CLASSIFIER_INIT = "normal"
    # The temperature of the normalised mask predictor, which
    # MODEL.ROI_MASK_HEAD.NAME "CosineMaskHead" switches on.
    cfg.MODEL.IIF.MASK_TEMPERATURE = 20.0
    # Train the classifier alone and leave all else as it was loaded (decoupled training).
    cfg.MODEL.IIF.TRAIN_CLASSIFIER_ONLY = False

    # Run NMS on the best-scored boxes only, as many as decide the detections; bit-equal to
    # Detectron2's inference and faster the more classes there are. False calls Detectron2's.
    cfg.MODEL.IIF.FAST_INFERENCE = True

    # An LVIS- or COCO-format annotation file to count; "" counts the data sets of DATASETS.TRAIN.
    cfg.MODEL.IIF.FREQUENCY_FILE = ""

    # The counts themselves, one entry per class in the order of the category ids. They are filled
    # in when training is set up, and so saved in OUTPUT_DIR/config.yaml: a trained model needs no
    # training data. Training always counts anew; evaluation and inference use what stands here.
    cfg.MODEL.IIF.FREQUENCY = CN()
    # Category ids of the annotation file, ascending.
    cfg.MODEL.IIF.FREQUENCY.IDS = []
    # Category names.
    cfg.MODEL.IIF.FREQUENCY.NAMES = []
    # Training images that show the class.
    cfg.MODEL.IIF.FREQUENCY.IMAGE_COUNT = []
    # Instances of the class; empty when they were not counted.
    cfg.MODEL.IIF.FREQUENCY.INSTANCE_COUNT = []
    # Training images, annotated or not.
    cfg.MODEL.IIF.FREQUENCY.NUM_IMAGES = 0
    # Where the counts were taken from.
    cfg.MODEL.IIF.FREQUENCY.SOURCE = ""
