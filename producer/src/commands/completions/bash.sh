_NAME() {
    local IFS=$'\n' words=() index=$COMP_CWORD i
    COMPREPLY=()
    for ((i = 0; i < ${#COMP_WORDS[@]}; i++)); do
        if ((i == COMP_CWORD)); then
            # The part before the cursor, as a program would get it; bash takes the `=` of `--option=` for a word.
            [[ $2 == "=" ]] && words+=("") || words+=("${2//\\/}")
        elif ((i > 0)) && [[ ${COMP_WORDS[i]} == "=" && ${COMP_WORDS[i - 1]} == --* ]]; then
            ((i > COMP_CWORD)) || ((index--))
        else
            words+=("${COMP_WORDS[i]}")
        fi
    done
    read -r -d '' -a COMPREPLY < <(
        _CLAP_IFS=$IFS _CLAP_COMPLETE_INDEX=$index VARIABLE=bash PROGRAM -- "${words[@]}" 2>/dev/null
    )
    # A folder's name goes on.
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace 2>/dev/null
    # Names of files may need quotes; those of runs, models and options never do.
    IFS=
    [[ "${COMPREPLY[*]}" == *[!-A-Za-z0-9_./@:=,+~]* ]] && compopt -o filenames 2>/dev/null
    return 0
}
complete -o bashdefault -o nosort -F _NAME COMMAND 2>/dev/null || complete -o bashdefault -F _NAME COMMAND
