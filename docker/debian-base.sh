#!/bin/bash
# Make a base image of Debian's own packages, for where no registry of images can be reached: debian-base.sh NAME:TAG.
# Needs mmdebstrap and a Docker engine.
set -euo pipefail

: "${1:?give the NAME:TAG of the image}"
mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates bookworm - | docker import - "$1"
