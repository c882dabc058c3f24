#!/bin/bash
# Build detectron2 and what it requires: detectron2-wheels.sh REQUIREMENT FOLDER. Needs torch, which it is compiled
# against. Its own operators are for the CPU (there is no nvcc here): soco takes RoIAlign and NMS from torchvision.
set -euo pipefail

if [[ -s /run/secrets/ca ]]; then
  export PIP_CERT=/run/secrets/ca REQUESTS_CA_BUNDLE=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca
  export GIT_SSL_CAINFO=/run/secrets/ca
fi
apt-get update --quiet=2
apt-get install --quiet=2 --no-install-recommends build-essential git
if [[ "$(python -c 'import sys; print(sys.base_prefix)')" == /usr ]]; then
  apt-get install --quiet=2 --no-install-recommends python3-dev
fi
pip install --quiet setuptools wheel ninja
# Nothing that the image has already is to be replaced.
pip freeze --exclude setuptools --exclude wheel --exclude ninja | grep '==' > /tmp/constraints.txt
pip wheel --quiet --no-build-isolation --constraint /tmp/constraints.txt --wheel-dir "$2" "$1"
