# Completion of signal-device for bash. To use it: source <(signal-device completion bash)
_signal_device() {
  # bash has split the line at = and : too; what stands together in it is one word.
  local line=${COMP_LINE:0:COMP_POINT} words=() part i
  for ((i = 0; i <= COMP_CWORD; i++)); do
    part=${COMP_WORDS[i]}
    if ((i == 0)) || [[ $line == [[:space:]]* || -z $line ]]; then
      line=${line#"${line%%[![:space:]]*}"}
      words+=("")
    fi
    [[ $line == "$part"* ]] || part=$line # the cursor is inside of it
    words[${#words[@]} - 1]+=$part
    line=${line#"$part"}
  done
  local last=${words[${#words[@]} - 1]} kind word
  COMPREPLY=()
  {
    read -r kind
    case $kind in
      files) compopt -o filenames && while read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "${last#--*=}") ;;
      folders) compopt -o filenames && while read -r word; do COMPREPLY+=("$word"); done < <(compgen -d -- "${last#--*=}") ;;
      words)
        local fixed=${last%"${last##*[=:]}"} # it stands before what bash takes for the word
        while IFS=$'\t' read -r word _; do COMPREPLY+=("${word#"$fixed"}"); done
        ;;
    esac
  } < <("${words[0]}" __complete -- "${words[@]:1}" 2>/dev/null)
}
complete -F _signal_device signal-device
