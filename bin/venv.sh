# shellcheck shell=bash
# Sourced by the programs of bin/, in the checkout. `make_venv SET [FOLDER]` installs into .venv, or into that folder, the
# packages that requirements/ pins for this set and the venv's Python, and, except for the sets lock and snakemake, the
# checkout itself. It uses the first Python 3.10 or later that it finds, or the one that PYTHON names. It installs again when
# the pins or pyproject.toml have changed.

refuse() {
    printf '%s: %s\n' "$0" "$1" >&2
    exit 1
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

minor_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

find_python() {
    local python
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
        if is_recent "$python"; then
            printf '%s\n' "$python"
            return
        fi
    done
    refuse "Python 3.10 or later is needed; ${PYTHON:-python3} is: $("${PYTHON:-python3}" -V 2>&1 | sed 's/.*: //')
(on Debian 12 and later: apt-get install python3 python3-venv)"
}

# Make an empty venv in this folder, unless there is a working one.
need_venv() {
    local folder=$1 python
    # A venv works only in the folder, and with the Python, that it was made for.
    if [ "$(cat "$folder/made-in" 2>/dev/null)" != "$PWD" ] || ! is_recent "$folder/bin/python"; then
        python=$(find_python) || exit 1
        "$python" -c 'import venv, ensurepip' 2>/dev/null ||
            refuse "$python has no venv and ensurepip modules (on Debian: apt-get install python$(minor_of "$python")-venv)"
        printf 'making %s with %s\n' "$folder" "$("$python" -V)"
        rm -rf "$folder"
        "$python" -m venv "$folder" || refuse "could not make $folder with $python"
        printf '%s\n' "$PWD" >"$folder/made-in"
    fi
}

install_in() {
    local folder=$1
    shift
    "$folder/bin/python" -m pip install -qq --disable-pip-version-check "$@" ||
        refuse "pip could not install $* in $folder"
}

# Print the files that pin a set for the Python of a venv, always with those that build the checkout.
pins_of() {
    local minor file
    minor=$(minor_of "$2/bin/python")
    for file in "requirements/build-$minor.txt" "requirements/$1-$minor.txt"; do
        [ -f "$file" ] || refuse "this checkout has no pins for Python $minor: there is no $file
(set PYTHON to one that requirements/ has, or add $minor to PYTHONS in tests/support/pins.py and run bin/lock)"
        printf '%s\n' "$file"
    done
}

make_venv() {
    local wanted=$1 folder=${2:-.venv} pins
    need_venv "$folder"
    pins=$(pins_of "$wanted" "$folder") || exit 1
    # shellcheck disable=SC2086  # a list of files, here and below
    if ! cat $pins | cmp -s - "$folder/locked-$wanted"; then
        if [ -f "$folder/locked-$wanted" ]; then
            # Start with an empty venv, so that no package remains that is no longer pinned.
            rm -rf "$folder"
            need_venv "$folder"
        fi
        printf 'installing the packages of the set %s\n' "$wanted"
        install_in "$folder" --require-hashes $(printf -- '-r %s ' $pins)
        # The set `test` includes the set `run`.
        [ "$wanted" != test ] || cat $(pins_of run "$folder") >"$folder/locked-run"
        cat $pins >"$folder/locked-$wanted"
    fi
    if [ "$wanted" != lock ] && [ "$wanted" != snakemake ] && ! cmp -s pyproject.toml "$folder/installed"; then
        install_in "$folder" --no-deps --no-build-isolation -e .
        cp pyproject.toml "$folder/installed"
    fi
}

# Install the newest versions that pyproject.toml allows.
make_latest_venv() {
    need_venv .venv-latest
    printf 'installing the newest versions\n'
    install_in .venv-latest --upgrade --upgrade-strategy eager -e '.[test]'
}

# Install the lowest versions that pyproject.toml allows, each time into an empty venv: pip does not remove packages that
# are no longer needed.
make_lowest_venv() {
    make_venv lock .venv-lock
    rm -rf .venv-lowest
    need_venv .venv-lowest
    .venv-lock/bin/python -m tests.support.pins --lowest "$(minor_of .venv-lowest/bin/python)" .venv-lowest/pins ||
        refuse "uv could not find the lowest versions"
    printf 'installing the lowest versions\n'
    install_in .venv-lowest -r .venv-lowest/pins
    install_in .venv-lowest --no-deps --no-build-isolation -e .
}
