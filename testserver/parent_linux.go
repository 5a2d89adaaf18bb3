package testserver

import "syscall"

// dieWithParent makes the kernel kill the server when the test binary dies without its clean-up, as on a test timeout.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
