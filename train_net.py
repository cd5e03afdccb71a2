#!/usr/bin/env python3
"""Train and evaluate Mask R-CNN, with IIF or as the plain baseline.

python train_net.py --config-file configs/lvis_iif.yaml --num-gpus 8 [--baseline FOLDER] [KEY VALUE]
"""

import sys

from iif.d2.train import run

if __name__ == "__main__":
    sys.exit(run())
