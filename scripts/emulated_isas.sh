#!/bin/sh
# Runs the tests of the kernels on emulated CPUs with AVX-512, VNNI and AMX: `make emulated-isas`. No hardware of these
# kinds is needed, and nobody need be root.
#
# Needs Debian or its like, with xorriso, isolinux, syslinux-common, make, patch and g++. Bochs 3.0 (the first to know
# AMX) is built from the source package of Debian's suite trixie, which is looked for where apt has Debian from; the
# kernel is the package of the own suite. Both are fetched with apt into build/emulator and used there; nothing is
# installed. Arguments go to emulated_isas.py.
set -eu
cd "$(dirname "$0")/.."
PY=${PY:-$PWD/.venv/bin/python}
WORK=$PWD/build/emulator
PATCH=$PWD/scripts/bochs-3.0-amx.patch

for tool in xorrisofs:xorriso patch:patch make:make g++:g++ apt-get:apt dpkg:dpkg; do
    command -v "${tool%%:*}" >/dev/null || { echo "make emulated-isas needs ${tool%%:*}: apt-get install ${tool##*:}" >&2; exit 1; }
done
for file in /usr/lib/ISOLINUX/isolinux.bin:isolinux /usr/lib/syslinux/modules/bios/ldlinux.c32:syslinux-common; do
    [ -f "${file%%:*}" ] || { echo "make emulated-isas needs ${file%%:*}: apt-get install ${file##*:}" >&2; exit 1; }
done

mkdir -p "$WORK"
if [ ! -f "$WORK/kernel" ]; then
    echo "Fetching the kernel …"
    rm -rf "$WORK/linux" && mkdir "$WORK/linux"
    package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -1)
    [ -n "$package" ] || { echo "apt knows no linux-image-amd64: apt-get update, or add Debian's main to its sources" >&2; exit 1; }
    (cd "$WORK/linux" && apt-get -qq -o APT::Sandbox::User= download "$package" && dpkg -x ./*.deb .)
    cp "$WORK"/linux/boot/vmlinuz-* "$WORK/kernel"
    rm -r "$WORK/linux"
fi

if [ ! -x "$WORK/bochs" ]; then
    echo "Fetching the source of Bochs …"
    rm -rf "$WORK/apt" "$WORK/source"
    mkdir -p "$WORK/apt/lists/partial" "$WORK/apt/cache/archives/partial" "$WORK/source"
    # Debian's address is the one that the system's own sources name.
    debian=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' | head -1)
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $debian trixie main" >"$WORK/apt/sources.list"
    apt() {
        apt-get -qq -o APT::Sandbox::User= -o Dir::Etc::SourceList="$WORK/apt/sources.list" -o Dir::Etc::SourceParts=- \
            -o Dir::State="$WORK/apt" -o Dir::State::Lists="$WORK/apt/lists" -o Dir::Cache="$WORK/apt/cache" "$@"
    }
    apt update
    (cd "$WORK/source" && apt source --download-only --tar-only bochs)
    tar xf "$WORK"/source/bochs_3.0*.orig.tar.* -C "$WORK/source" ||
        { echo "found no source of bochs 3.0: apt needs an address that has Debian's trixie" >&2; exit 1; }
    echo "Building Bochs (some minutes) …"
    (
        cd "$WORK/source/bochs-3.0"
        patch --quiet -p1 <"$PATCH"
        CFLAGS=-O3 CXXFLAGS="-O3 -std=c++17" ./configure --with-nogui --disable-plugins --disable-docbook \
            --enable-cpu-level=6 --enable-x86-64 --enable-avx --enable-evex --enable-amx --enable-handlers-chaining
        nice make -j2
    ) >"$WORK/build.log" 2>&1 || { tail -20 "$WORK/build.log"; exit 1; }
    mkdir -p "$WORK/bios"
    cp "$WORK"/source/bochs-3.0/bios/*.bin-* "$WORK/bios"
    cp "$WORK/source/bochs-3.0/bochs" "$WORK/bochs"
    rm -r "$WORK/source" "$WORK/apt"
fi

exec "$PY" scripts/emulated_isas.py "$@"
