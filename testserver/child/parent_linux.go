package child

import "syscall"

// dieWithParent makes the kernel kill the child when this process dies without its clean-up, as on a kill -9.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
