package e2e

import "syscall"

// dieWithParent makes the kernel kill a process when the test binary dies without its clean-up, as on a test timeout.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
