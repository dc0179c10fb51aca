# shellcheck shell=sh
# For scripts that fetch something through apt and keep it: sourced by test/servers/fetch,
# test/vm/kernel and test/egress/resolved, after they have set "me" to their own name.
#
# apt has here a state, a cache and a list of sources of its own: the machine's apt is asked for its
# mirror and its proxy and otherwise left alone (its hooks, too, would act on the machine).
#
#   EGRESS_SERVER_CACHE      where everything is kept (/var/cache/egress-test, or without the right
#                            to write there ~/.cache/egress-test)
#   EGRESS_DEBIAN_MIRROR     the mirror, instead of the one that this machine uses
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() { # STATUS TEXT...
    code=$1
    shift
    echo "$me: $*" >&2
    exit "$code"
}

# Sets "cache", and makes the directory.
open_cache() {
    cache=${EGRESS_SERVER_CACHE:-/var/cache/egress-test}
    if [ -z "${EGRESS_SERVER_CACHE:-}" ] && ! mkdir -p "$cache" 2>/dev/null; then
        cache=${XDG_CACHE_HOME:-$HOME/.cache}/egress-test
    fi
    mkdir -p "$cache" || fail 1 "cannot make $cache; EGRESS_SERVER_CACHE names another place"
    cache=$(cd "$cache" && pwd)
}

mirror() { # SUITE
    if [ -n "${EGRESS_DEBIAN_MIRROR:-}" ]; then
        echo "$EGRESS_DEBIAN_MIRROR"
        return
    fi
    # shellcheck disable=SC2016 # apt fills it in
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' \
        'Label: Debian' 2>/dev/null | head -n 1) || found=
    echo "${found:-http://deb.debian.org/debian}"
}

# The configuration of a private apt. "parts" and "main" name nothing, so that no file of the machine
# is read after this one.
configure() { # DIRECTORY SUITE deb|deb-src
    mkdir -p "$1/lists/partial" "$1/archives/partial" "$1/parts" "$1/download"
    : >"$1/status"
    {
        echo "Dir::State \"$1\";"
        echo "Dir::State::lists \"$1/lists\";"
        echo "Dir::State::status \"$1/status\";"
        echo "Dir::Cache \"$1\";"
        echo "Dir::Cache::archives \"$1/archives\";"
        echo "Dir::Etc \"$1\";"
        for what in main netrc netrcparts parts preferences preferencesparts sourceparts trusted \
            trustedparts; do
            echo "Dir::Etc::$what \"$1/parts/none\";"
        done
        echo "Dir::Etc::parts \"$1/parts\";"
        echo "Dir::Etc::sourcelist \"$1/sources.list\";"
        echo 'Acquire::Languages "none";'
        echo 'Acquire::Retries "3";'
        echo 'Acquire::http::Timeout "30";'
        echo 'Acquire::https::Timeout "30";'
        echo 'Acquire::GzipIndexes "true";'
        echo 'APT::Update::Error-Mode "any";'
        # A mirror that stands still (a snapshot) is good enough: what is fetched is pinned by its sum
        # or signed by the archive.
        echo 'Acquire::Check-Valid-Until "false";'
        echo 'Acquire::Check-Date "false";'
        for scheme in http https; do
            unset proxy
            eval "$(apt-config shell proxy "Acquire::$scheme::Proxy")"
            [ -z "${proxy:-}" ] || echo "Acquire::$scheme::Proxy \"$proxy\";"
        done
    } >"$1/apt.conf"
    echo "$3 [signed-by=$keyring] $(mirror "$2") $2 main" >"$1/sources.list"
    # apt gives up root's rights for what it downloads, where that user can write.
    if [ "$(id -u)" -eq 0 ] && id _apt >/dev/null 2>&1; then
        chown _apt "$1/download" "$1/lists/partial" "$1/archives/partial"
    fi
}

# Everything after this asks the private apt of that suite, whose lists are fresh. Sets "apt", its
# directory, and "log"; ends with status 3 where it cannot be.
private_apt() { # SUITE deb|deb-src
    command -v apt-get >/dev/null || fail 3 "there is no apt-get here"
    [ -r "$keyring" ] || fail 3 "$keyring is missing (package debian-archive-keyring)"
    apt=$cache/apt/$1-$2
    log=$apt/log
    configure "$apt" "$1" "$2"
    export APT_CONFIG="$apt/apt.conf" LC_ALL=C.UTF-8
    apt-get -q update >"$log" 2>&1 || {
        cat "$log" >&2
        fail 3 "apt could not read the lists that $apt/sources.list names; see above (no network?)"
    }
}
