#!/bin/sh
# Make the virtual environment FOLDER with everything that the demo and the tests need.
#   [PYTHON=python3.12] tools/set_up.sh FOLDER
set -eu
folder=$1
python=${PYTHON:-python3}

"$python" - <<'CHECK'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"IIF needs Python 3.11 or newer; this is {sys.version.split()[0]}. "
             "Name another one with: make PYTHON=python3.12 ...")
CHECK
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"

echo "Installing the packages of requirements.txt into $folder (torch is large; some minutes)"
"$folder/bin/python" -m pip install --quiet --upgrade pip wheel "setuptools<81"
"$folder/bin/python" -m pip install --quiet -r requirements.txt
"$folder/bin/python" -m pip install --quiet --no-build-isolation -e ".[dev]"

# opencv-python needs libGL, which a server may lack; the headless build is the same without windows.
if ! "$folder/bin/python" -c "import cv2" 2>/dev/null; then
    echo "opencv-python does not load here (no libGL?): using opencv-python-headless instead"
    "$folder/bin/python" -m pip uninstall --quiet --yes opencv-python
    # Removing the one took files of the other, if that was there.
    "$folder/bin/python" -m pip install --quiet --force-reinstall --no-deps \
        "opencv-python-headless==$(sed -n 's/^opencv-python==//p' requirements.txt)"
fi

tools/install_detectron2.sh "$folder/bin/python"
