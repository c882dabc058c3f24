#!/bin/bash
# pip with the site's CA bundle, if one was given as the build secret `ca`:
#   pip-install.sh ARGUMENTS            install
#   pip-install.sh --build DIR SOURCE   build SOURCE as a wheel in DIR
#   pip-install.sh --built DIR NAME     install the wheel NAME that was built in DIR, and its neighbours; nothing if none was
set -euo pipefail

if [[ -s /run/secrets/ca ]]; then
  export PIP_CERT=/run/secrets/ca REQUESTS_CA_BUNDLE=/run/secrets/ca SSL_CERT_FILE=/run/secrets/ca
fi
case "${1:-}" in
  --build) exec pip wheel --quiet --no-deps --wheel-dir "$2" "$3" ;;
  --built)
    if compgen -G "$2/$3-*.whl" > /dev/null; then
      exec pip install --quiet --no-cache-dir --no-index --find-links "$2" "$3"
    fi
    ;;
  *) exec pip install --quiet "$@" ;;
esac
