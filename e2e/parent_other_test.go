//go:build !linux

package e2e

import "syscall"

// dieWithParent does nothing: only Linux can tie a process to its parent.
func dieWithParent() *syscall.SysProcAttr { return nil }
