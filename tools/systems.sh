# Sourced: other systems in directories, to see what a new user of them would. For root only.
# shellcheck shell=bash

systems=$DEV/systems

# Where a system comes from: its suite, its components and its mirror.
system_source() {
    local debian=${DEBIAN_MIRROR:-http://deb.debian.org/debian} ubuntu=${UBUNTU_MIRROR:-http://archive.ubuntu.com/ubuntu}
    case $1 in
        debian12) echo bookworm main "$debian" ;;
        debian13) echo trixie main "$debian" ;;
        ubuntu24.04) echo noble main,universe "$ubuntu" ;;
        *) die "no such system: $1; there are debian12, debian13 and ubuntu24.04" ;;
    esac
}

# ubuntu_keyring MIRROR: prints the file with the keys of Ubuntu's archive, which Debian 12 and 13 have no package of.
ubuntu_keyring() {
    local keyring=usr/share/keyrings/ubuntu-archive-keyring.gpg deb=$systems/ubuntu-keyring.deb
    if [ -e "/$keyring" ]; then
        echo "/$keyring"
        return
    fi
    # wget comes with debootstrap. A failure does not end a substituted command by itself.
    wget -q -O "$deb" "$1/pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb" &&
        echo "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8  $deb" | sha256sum --quiet -c >&2 &&
        dpkg-deb --fsys-tarfile "$deb" | tar -xO "./$keyring" >"$systems/ubuntu-archive-keyring.gpg" ||
        die "the keys of Ubuntu's archive are not to be had"
    echo "$systems/ubuntu-archive-keyring.gpg"
}

# new_system NAME DIR: a bare system, with nothing but what its base has and the certificates that this machine trusts,
# which may be behind a proxy.
new_system() {
    local suite components mirror bare=$systems/$1 script=() keyring=()
    is_root || die "only root can make a system in a directory"
    read -r suite components mirror < <(system_source "$1")
    command -v debootstrap >/dev/null || (apt_install debootstrap)
    if [ ! -e "$bare/ok" ]; then
        say "Making $1 in $bare"
        rm -rf "$bare"
        mkdir -p "$systems"
        # A Debian may neither know Ubuntu's suite nor have its keys.
        [ -e "/usr/share/debootstrap/scripts/$suite" ] || script=(/usr/share/debootstrap/scripts/gutsy)
        [[ $1 != ubuntu* ]] || keyring=(--keyring="$(ubuntu_keyring "$mirror")")
        debootstrap --variant=minbase --include=ca-certificates --components="$components" "${keyring[@]}" \
            "$suite" "$bare" "$mirror" "${script[@]}" >"$bare.log" || die "debootstrap failed; see $bare.log"
        cat /etc/ssl/certs/ca-certificates.crt >"$bare/etc/ssl/certs/ca-certificates.crt"
        touch "$bare/ok"
    fi
    rm -rf "$2"
    cp -a "$bare" "$2"
}

# in_system DIR COMMAND: runs a shell command in it, in namespaces of its own, whose processes end with it.
in_system() {
    unshare --mount --pid --fork --kill-child bash -c '
        set -e
        mkdir -p "$1/proc" "$1/dev"
        mount -t proc proc "$1/proc"
        mount --rbind /dev "$1/dev"
        cp /etc/resolv.conf "$1/etc/" 2>/dev/null || true
        chroot "$1" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            DEBIAN_FRONTEND=noninteractive PIP_CERT=/etc/ssl/certs/ca-certificates.crt bash -c "set -e; $2"
    ' bash "$1" "$2"
}

# give_rust DIR: of rustup only the toolchain, as what it links to must be there.
give_rust() {
    mkdir -p "$1/opt"
    cp -r "$(rustc --print sysroot)" "$1/opt/rust"
}
