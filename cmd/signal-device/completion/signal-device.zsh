#compdef signal-device
# Completion of signal-device for zsh. To use it: source <(signal-device completion zsh)
_signal_device() {
  local -a lines values shown
  local entry
  lines=("${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  case ${lines[1]} in
    files) compset -P '--*='; _files ;;
    folders) compset -P '--*='; _files -/ ;;
    words)
      for entry in "${(@)lines[2,-1]}"; do
        values+=("${entry%%$'\t'*}")
        if [[ -n ${entry#*$'\t'} ]]; then
          shown+=("${entry%%$'\t'*}  -- ${entry#*$'\t'}")
        else
          shown+=("${entry%%$'\t'*}")
        fi
      done
      (( $#values )) && compadd -l -d shown -a values
      ;;
  esac
}
if [[ ${funcstack[1]} == _signal_device ]]; then
  _signal_device "$@"
else
  compdef _signal_device signal-device
fi
