//go:build !linux

package child

import "syscall"

// dieWithParent does nothing: only Linux can tie a process to its parent.
func dieWithParent() *syscall.SysProcAttr { return nil }
