# Completion of signal-device for fish. To use it: signal-device completion fish | source
function __signal_device_complete
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    set -l lines ($words[1] __complete -- $words[2..-1] "$last" 2>/dev/null)
    set -l before (string match -r -- '^--[^=]*=' "$last")
    set -l path (string replace -r -- '^--[^=]*=' '' "$last")
    switch "$lines[1]"
        case files
            for found in (__fish_complete_path "$path")
                echo "$before$found"
            end
        case folders
            for found in (__fish_complete_directories "$path")
                echo "$before$found"
            end
        case words
            printf '%s\n' $lines[2..-1]
    end
end
complete -c signal-device -f -a '(__signal_device_complete)'
