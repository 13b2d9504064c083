#!/usr/bin/env bash
# Installs the Debian packages named on the command line that are missing; says what it does, fails with what to type.
set -euo pipefail
missing=()
for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
command -v apt-get >/dev/null || { echo "not a Debian system: please install ${missing[*]} yourself" >&2; exit 1; }
run=()
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || { echo "please run: sudo apt-get install ${missing[*]}" >&2; exit 1; }
    run=(sudo -n)
fi
echo "installing Debian packages: ${missing[*]}"
"${run[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
