# Who may write a checkout; sourced by install and bootstrap, for runs with root's rights.
# Trusted are root and whoever called sudo, with a group of that user's own: they can become root anyway.

others_write() { # [-maxdepth N] PATHS...: the first file there that somebody else may change, and why; nothing when there is none
    (
        caller=${SUDO_UID:-0}
        case $caller in '' | *[!0-9]*) caller=0 ;; esac
        private=0
        gid=$(getent passwd "$caller" | cut -d: -f4)
        if [ -n "$gid" ] && [ -z "$(getent group "$gid" | cut -d: -f4)" ] \
            && [ "$(getent passwd | cut -d: -f4 | grep -cx "$gid")" = 1 ]; then private=$gid; fi
        depth=
        [ "$1" != -maxdepth ] || { depth="-maxdepth $2"; shift 2; }
        sticky='! -perm -1000'                          # nobody else's file in such a directory can be renamed
        [ -n "$depth" ] || sticky=
        # shellcheck disable=SC2086 - words, not one argument
        find "$@" $depth \( \
            ! -uid 0 ! -uid "$caller" -printf '%p belongs to %u\n' -quit \
            -o ! -type l -perm -002 $sticky -printf '%p can be written by everybody\n' -quit \
            -o ! -type l -perm -020 ! -gid 0 ! -gid "$private" $sticky -printf '%p can be written by group %g\n' -quit \)
    )
}
others_write_above() { # PATH: the same of the directories above it
    (
        place=$1
        while [ "$place" != / ]; do
            place=$(dirname -- "$place")
            found=$(others_write -maxdepth 0 "$place")
            [ -z "$found" ] || { printf '%s\n' "$found"; break; }
        done
    )
}
