# bash completion for helperd; made by scripts/generate-completions; do not edit
_helperd_sources() { # names of running sources: their sockets
    local dir file
    for dir in "${RUNTIME_DIRECTORY:-/nonexistent}" "${XDG_RUNTIME_DIR:-/nonexistent}/helperd" \
        "${TMPDIR:-/tmp}/helperd-$(id -u)" /run/helperd; do
        [ -d "$dir/sources" ] || continue
        for file in "$dir"/sources/*.sock; do
            file=${file##*/}
            file=${file%.sock}
            case $file in *.* | '*') ;; *) printf '%s\n' "$file" ;; esac
        done
        return
    done
}

_helperd() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command= word
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in run | demo | status | top | list | probe | start | stop | pause | resume | restart | channel | hop | tap | messages | wait | reload | capture | launcher | doctor | check | conformance) command=$word; break ;; esac
    done
    COMPREPLY=()
    case $command:$prev in
        run:-c | run:--config) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames; return ;;
        run:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        run:--launcher) COMPREPLY=(); return ;;
        demo:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        status:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        top:-d | top:--delay) COMPREPLY=(); return ;;
        top:-s | top:--sort) mapfile -t COMPREPLY < <(compgen -W "n s r p l t a" -- "$cur"); return ;;
        top:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        list:-c | list:--config) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames; return ;;
        list:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        probe:-c | probe:--config) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames; return ;;
        probe:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        start:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        stop:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        pause:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        resume:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        restart:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        channel:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        hop:--rate) COMPREPLY=(); return ;;
        hop:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        tap:-w) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames; return ;;
        tap:-c) COMPREPLY=(); return ;;
        tap:-a) COMPREPLY=(); return ;;
        tap:-b) COMPREPLY=(); return ;;
        tap:--linktype) COMPREPLY=(); return ;;
        tap:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        messages:--since) COMPREPLY=(); return ;;
        messages:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        wait:--running) mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); return ;;
        wait:--stopped) mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); return ;;
        wait:--timeout) COMPREPLY=(); return ;;
        wait:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        reload:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        capture:-w) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames; return ;;
        capture:-c) COMPREPLY=(); return ;;
        capture:-a) COMPREPLY=(); return ;;
        capture:--config) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames; return ;;
        capture:--launcher) COMPREPLY=(); return ;;
        launcher:-c | launcher:--config) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames; return ;;
        launcher:--listen) COMPREPLY=(); return ;;
        doctor:-c | doctor:--config) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames; return ;;
        doctor:--runtime-dir) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames; return ;;
        conformance:--definition) COMPREPLY=(); return ;;
        conformance:--check) mapfile -t COMPREPLY < <(compgen -W "greeting list probe open refuse channel hop ping bytewise coalesced big unknown twice full-pipe eof unheard sigterm garbage payload bulk" -- "$cur"); return ;;
        conformance:--limit) COMPREPLY=(); return ;;
        conformance:--jobs) COMPREPLY=(); return ;;
    esac
    case $command in
        run) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help -c --config --runtime-dir --launcher --unprivileged" -- "$cur"); fi ;;
        demo) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --live --chaos --runtime-dir" -- "$cur"); fi ;;
        status) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --runtime-dir --json" -- "$cur"); else mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); fi ;;
        top) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help -d --delay -s --sort --runtime-dir" -- "$cur"); fi ;;
        list) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help -c --config --json --runtime-dir --fresh" -- "$cur"); fi ;;
        probe) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help -c --config --json --runtime-dir" -- "$cur"); fi ;;
        start) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --runtime-dir --json" -- "$cur"); else mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); fi ;;
        stop) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --runtime-dir --json" -- "$cur"); else mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); fi ;;
        pause) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --runtime-dir --json" -- "$cur"); else mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); fi ;;
        resume) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --runtime-dir --json" -- "$cur"); else mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); fi ;;
        restart) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --runtime-dir --json" -- "$cur"); else mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); fi ;;
        channel) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --runtime-dir --json" -- "$cur"); else mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); fi ;;
        hop) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --rate --runtime-dir --json" -- "$cur"); else mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); fi ;;
        tap) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --all -w -c -a -b -g -q --quiet --jsonl --linktype --runtime-dir" -- "$cur"); else mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); fi ;;
        messages) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help -f --follow --since --runtime-dir --json" -- "$cur"); else mapfile -t COMPREPLY < <(compgen -W "$(_helperd_sources)" -- "$cur"); fi ;;
        wait) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --running --stopped --timeout --runtime-dir" -- "$cur"); fi ;;
        reload) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --runtime-dir --json --check" -- "$cur"); fi ;;
        capture) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help -w -c -a --config --launcher -q --quiet" -- "$cur"); fi ;;
        launcher) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help -c --config --listen --systemd" -- "$cur"); fi ;;
        doctor) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help -c --config --runtime-dir --security --json" -- "$cur"); fi ;;
        check) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --json" -- "$cur"); else mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames; fi ;;
        conformance) if [[ $cur == -* ]]; then mapfile -t COMPREPLY < <(compgen -W "-h --help --definition --check --limit --jobs --json" -- "$cur"); fi ;;
        "") mapfile -t COMPREPLY < <(compgen -W "run demo status top list probe start stop pause resume restart channel hop tap messages wait reload capture launcher doctor check conformance -h --help --version" -- "$cur") ;;
    esac
}
complete -F _helperd helperd
