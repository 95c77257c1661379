# What the scripts share; sourced, not run.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top"

say() { printf '== %s\n' "$*"; }
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Two jobs for each compiler to keep busy, never more than there is memory for (about 1.5 GiB each, with LTO).
jobs_max() {
    local processors memory
    processors=$(nproc)
    memory=$(awk '/^MemAvailable:/ {print int($2 / 1572864)}' /proc/meminfo)
    if ((memory < 1)); then memory=1; fi
    echo $((processors < memory ? processors : memory))
}

# Our own C++ files, committed or not.
own_files() { git ls-files --cached --others --exclude-standard -- "$@" | sort -u | while read -r file; do
    if [[ -f $file ]]; then echo "$file"; fi
done; }
