#!/usr/bin/env bash
# Make a virtual environment for each client of environments.txt, or for those named, and run its snippet there.
set -euo pipefail
cd "$(dirname "$0")/../.."
while read -r client requirements <&3; do
    if [ $# -gt 0 ] && [[ " $* " != *" $client "* ]]; then continue; fi
    python="build/clients/$client/bin/python"
    [ -x "$python" ] || python3 -m venv "build/clients/$client"
    # shellcheck disable=SC2086 # several requirements
    "$python" -m pip install -q torch==2.13.0 -e . hypothesis pytest $requirements
    "$python" -m pip freeze | grep -iE "^($client|ray|gymnasium|pettingzoo|torch|torchrl)=="
    PYTHONPATH="$PWD" "$python" -m pytest -q -m "slow or not slow" -o addopts= tests/clients -k "$client or versions"
done 3< tests/clients/environments.txt
