"""configs/lvis_iif.yaml as a LazyConfig, for Detectron2's tools/lazyconfig_train_net.py.

A baseline to compare with: dataloader.evaluator.baseline=output/lvis_baseline
"""

import json

from detectron2.config import LazyCall as L
from detectron2.data import MetadataCatalog
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from iif import ClassStatistics, build_method
from iif.d2 import IIFEvaluator, IIFFastRCNNOutputLayers
from iif.d2.lazy import method_record
from iif.d2.mask_head import PredictedClassMaskHead

model = get_config("common/models/mask_rcnn_fpn.py").model
model.roi_heads.num_classes = 1203
model.roi_heads.box_predictor.update(
    _target_=IIFFastRCNNOutputLayers,
    test_score_thresh=1e-4,
    test_nms_thresh=0.5,
    test_topk_per_image=300,
    method=L(build_method)(
        name="iif",
        statistics=L(ClassStatistics.from_metadata)(
            metadata=L(MetadataCatalog.get)(name="lvis_v1_train")
        ),
        options={"variant": "raw", "count_by": "image"},
    ),
)
model.roi_heads.mask_head._target_ = PredictedClassMaskHead

dataloader = get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = "lvis_v1_train"
dataloader.test.dataset.names = "lvis_v1_val"
dataloader.evaluator = L(IIFEvaluator)(
    dataset_name="${..test.dataset.names}",
    output_dir="${train.output_dir}/inference",
    test_settings={
        "score_threshold": "${model.roi_heads.box_predictor.test_score_thresh}",
        "nms_threshold": "${model.roi_heads.box_predictor.test_nms_thresh}",
        "detections_per_image": "${model.roi_heads.box_predictor.test_topk_per_image}",
    },
    config=L(json.loads)(s="${iif_settings:}"),
    method=L(method_record)(method="${model.roi_heads.box_predictor.method}"),
    baseline=None,
    log_to="${train.output_dir}",
)

# An epoch is 6,213 iterations, as in configs/lvis_baseline.yaml.
optimizer = get_config("common/optim.py").SGD
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[8 * 6213, 11 * 6213, 12 * 6213]
    ),
    warmup_length=500 / (12 * 6213),
    warmup_factor=0.001,
)

train = get_config("common/train.py").train
train.max_iter = 12 * 6213
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
train.output_dir = "output/lvis_iif"
train.checkpointer.period = 6213
train.eval_period = 12 * 6213
