package child

import "strings"

// OwnEnvironment is the environment of a child that is this program again: without the options that were meant for this
// process, and with a log of what is wrong only.
func OwnEnvironment(environ []string) []string {
	var kept []string
	for _, entry := range environ {
		if !strings.HasPrefix(entry, "SIGNAL_DEVICE_") {
			kept = append(kept, entry)
		}
	}
	return append(kept, "SIGNAL_DEVICE_LOG_LEVEL=warn")
}
