//go:build unix

package broker

import "syscall"

// openFiles is how many files and connections this process may have open; 0: not known.
func openFiles() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(uint64(limit.Cur), mostConnections*2)) //nolint:unconvert // its type differs between systems
}
