"""configs/lvis_iif.yaml as a LazyConfig, for Detectron2's tools/lazyconfig_train_net.py."""

from detectron2.config import LazyCall as L
from detectron2.data import MetadataCatalog
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from iif import ClassStatistics, build_method
from iif.d2 import IIFEvaluator, IIFFastRCNNOutputLayers

model = get_config("common/models/mask_rcnn_fpn.py").model
model.roi_heads.num_classes = 1203
model.roi_heads.box_predictor.update(
    _target_=IIFFastRCNNOutputLayers,
    test_score_thresh=1e-4,
    test_topk_per_image=300,
    classifier_init="constant",
    method=L(build_method)(
        name="iif",
        statistics=L(ClassStatistics.from_metadata)(
            metadata=L(MetadataCatalog.get)(name="lvis_v1_train")
        ),
        options={"variant": "raw", "count_by": "image"},
    ),
)

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = "lvis_v1_train"
dataloader.test.dataset.names = "lvis_v1_val"
dataloader.evaluator = L(IIFEvaluator)(
    dataset_name="lvis_v1_val", output_dir="output/lvis_iif/inference"
)

optimizer = get_config("common/optim.py").SGD
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[50_000, 68_750, 75_000]
    ),
    warmup_length=500 / 75_000,
    warmup_factor=0.001,
)

train = get_config("common/train.py").train
train.max_iter = 75_000
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.output_dir = "output/lvis_iif"
train.checkpointer.period = 6250
train.eval_period = 75_000
