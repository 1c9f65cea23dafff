# What every script here needs: a virtual environment that fits pyproject.toml, and Debian packages. Sourced, never run.
# Works on a bare Debian 12 (as root, or with sudo); quiet unless something fails.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
cd "$root"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# quietly COMMAND..: run it, show what it printed only when it fails
quietly() {
    local output status=0
    output=$("$@" 2>&1 </dev/null) || status=$?
    if [ "$status" -ne 0 ]; then
        printf '%s\n' "$output" >&2
    fi
    return "$status"
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        return 1
    fi
}

_apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q "$@" 2>&1
}

# install_packages PACKAGE..: true once they are installed. The package lists are fetched only when what is there
# does not do: they are missing on a fresh machine, and old ones name files that are gone.
install_packages() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        return 1
    fi
    say "installing Debian packages: $*"
    _apt_get install --no-install-recommends "$@" >/dev/null ||
        { quietly _apt_get update && quietly _apt_get install --no-install-recommends "$@"; }
}

# want_tool COMMAND PACKAGES WHAT_FOR: install it if it is missing; go on without it, but say what is lost
want_tool() {
    # shellcheck disable=SC2086  # a list of packages
    if ! command -v "$1" >/dev/null && ! install_packages $2; then
        say "warning: $1 is missing (Debian packages: $2): $3"
    fi
}

# want_library FILE PACKAGES WHAT_FOR: the same for a shared library
want_library() {
    # shellcheck disable=SC2086  # a list of packages
    if ! PATH="$PATH:/sbin" ldconfig -p | grep -F "$1" >/dev/null && ! install_packages $2; then
        say "warning: $1 is missing (Debian packages: $2): $3"
    fi
}

# want_guest: the virtual machine of tests/vm: its tools, and Debian's kernel unpacked (not installed) where it looks
want_guest() {
    local folder=${ISPD_GUEST_KERNEL:-${XDG_CACHE_HOME:-$HOME/.cache}/ispd-guest} lost="nothing is tried on a real kernel"
    want_tool qemu-system-x86_64 qemu-system-x86 "$lost"
    want_tool busybox busybox-static "$lost"
    want_tool depmod kmod "$lost"
    want_tool cpio cpio "$lost"
    want_tool udevadm udev "$lost"
    want_tool systemctl systemd "$lost"
    # the daemon alone (package dbus-daemon) brings no unit
    [ -e /lib/systemd/system/dbus.socket ] || install_packages dbus || say "warning: Debian's dbus is missing: $lost"
    [ -d "$folder/boot" ] || _unpack_kernel "$folder" || say "warning: no kernel in $folder: $lost"
}

_unpack_kernel() {
    local folder=$1 package made
    package=$(apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image-/ {print $2; exit}')
    [ -n "$package" ] || return 1
    say "unpacking Debian's $package into $folder"
    mkdir -p "$(dirname "$folder")"
    made=$(mktemp -d "$folder.XXXXXX")
    if (cd "$made" && quietly apt-get -q -o APT::Sandbox::User=root download "$package") &&
        dpkg-deb -x "$made/$package"_*.deb "$made"; then
        rm -f "$made/$package"_*.deb
        mv -T "$made" "$folder" 2>/dev/null || rm -rf "$made"
    else
        rm -rf "$made"
        return 1
    fi
}

_python() {
    local candidate
    for candidate in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

_create_venv() {
    local python
    python=$(_python) || { install_packages python3 python3-venv && python=$(_python); } ||
        die "Python 3.11 or newer is needed (Debian package python3)"
    rm -rf "$venv"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        install_packages python3-venv ||
            die "$python cannot make virtual environments: install Debian's python3-venv, then start again"
        python=/usr/bin/python3
    fi
    quietly "$python" -m venv "$venv" || die "the virtual environment $venv could not be made"
}

# The environment is made again when the checkout moved, and filled again when pyproject.toml changed.
_wanted_stamp() {
    printf '%s\n' "$root" "$1"
    sha256sum <pyproject.toml
}

# setup_venv [EXTRA]: .venv holds this checkout, editable, with the extra's packages (default dev); first on PATH after this
setup_venv() {
    local extra=${1:-dev} stamp
    # two scripts started at once must not both build it
    exec 9<"$root"
    flock 9
    stamp=$(_wanted_stamp "$extra")
    if [ "$(head -n 1 "$venv/stamp" 2>/dev/null)" != "$root" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
        say "setting up $venv"
        _create_venv
    fi
    if [ "$(cat "$venv/stamp" 2>/dev/null)" != "$stamp" ]; then
        rm -f "$venv/stamp"
        local install=("$venv/bin/python" -m pip install -q --disable-pip-version-check -e ".[$extra]")
        # once more, for registries that were out of breath
        quietly "${install[@]}" || quietly "${install[@]}" || die "the Python packages could not be installed"
        printf '%s\n' "$stamp" >"$venv/stamp"
    fi
    exec 9<&-
    export PATH="$venv/bin:$PATH" VIRTUAL_ENV="$venv"
    unset PYTHONHOME PYTHONPATH
}
