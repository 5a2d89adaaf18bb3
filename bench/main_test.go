package bench

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also the bridge's process: the bench starts its own executable as `… bench --bridge FILE --ready-file FILE`.
func TestMain(m *testing.M) {
	if len(os.Args) == 6 && os.Args[1] == "bench" && os.Args[2] == "--bridge" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := RunBridge(ctx, os.Args[3], os.Args[5]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}
