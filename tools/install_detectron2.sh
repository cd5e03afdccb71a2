#!/bin/sh
# Install Detectron2 at the commit that IIF is tested with, for the interpreter PYTHON. Where that
# cannot be done, say so in one line and succeed: everything but the Detectron2 engine works.
#   tools/install_detectron2.sh PYTHON
set -eu
python=$1
repository=https://github.com/facebookresearch/detectron2.git
commit=02b5c4e295e990042a714712c21dc79b731e8833
log=$(dirname "$python")/../detectron2-install.log

if "$python" -c "import detectron2" 2>/dev/null; then
    exit 0
fi
# A server that does not answer must not hold up the set-up for minutes.
export GIT_TERMINAL_PROMPT=0 GIT_HTTP_LOW_SPEED_LIMIT=1000 GIT_HTTP_LOW_SPEED_TIME=20
if ! git ls-remote --quiet "$repository" HEAD >"$log" 2>&1; then
    echo "Detectron2 is not installed: $repository cannot be reached. Going on with torchvision;" \
        "run 'make detectron2' where it can."
    exit 0
fi
echo "Building Detectron2 (about two minutes)"
if ! "$python" -m pip install --no-build-isolation "git+$repository@$commit" >"$log" 2>&1; then
    echo "Detectron2 is not installed: its build failed (see $log). Going on with torchvision;" \
        "mend that and run 'make detectron2'."
fi
