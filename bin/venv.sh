# shellcheck shell=bash
# Sourced by bin/test and bin/demo, in the checkout. `make_venv run` or `make_venv test` leaves in .venv what is
# needed for that; it takes the first Python 3.10 or later that it finds, or the one that PYTHON names, and
# installs anew only when pyproject.toml has changed.

refuse() {
    printf '%s: %s\n' "$0" "$1" >&2
    exit 1
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
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

make_venv() {
    local python package=.
    [ "$1" = test ] && package='.[test]'
    # A venv works only in the folder and with the Python that it was made for.
    if [ "$(cat .venv/made-in 2>/dev/null)" != "$PWD" ] || ! is_recent .venv/bin/python; then
        python=$(find_python) || exit 1
        "$python" -c 'import venv, ensurepip' 2>/dev/null ||
            refuse "$python has no venv and ensurepip modules (on Debian: apt-get install $("$python" -c \
                'import sys; print("python%d.%d-venv" % sys.version_info[:2])'))"
        printf 'making .venv with %s\n' "$("$python" -V)"
        rm -rf .venv
        "$python" -m venv .venv || refuse "could not make .venv with $python"
        printf '%s\n' "$PWD" >.venv/made-in
    fi
    if ! cmp -s pyproject.toml ".venv/installed-to-$1"; then
        printf 'installing taskqd and what it needs to %s\n' "$1"
        .venv/bin/python -m pip install -qq --disable-pip-version-check -e "$package" ||
            refuse "pip could not install $package"
        # What tests need includes what running needs.
        cp pyproject.toml .venv/installed-to-run
        cp pyproject.toml ".venv/installed-to-$1"
    fi
}
