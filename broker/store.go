package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// How a store that takes no writes is judged.
const (
	storeCheck   = 500 * time.Millisecond
	storeFailing = 5 * time.Second // a stream whose writes find no answer for so long does not serve
	storeRoom    = 8 << 20         // bytes that must fit on the disk before opening the store anew is worth while
	storeFiles   = 64              // files that must be to be had then
)

var errSilent = fmt.Errorf("a stream has answered nothing for %v", storeFailing)

// watchStore looks after the store until ctx ends. While a stream takes no writes, callers are told that the broker does
// not serve. Once there is room again, on the disk and for files, the broker fails, so that whoever started it starts it
// anew: nothing else heals the store. Nothing is lost meanwhile: what could not be written was acknowledged to nobody.
func (b *Broker) watchStore(ctx context.Context) {
	tick := time.NewTicker(storeCheck)
	defer tick.Stop()
	serving := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		broken := b.engine.Broken()
		if broken == nil && b.engine.Failing() >= storeFailing {
			broken = errSilent
		}
		if now := broken == nil; now != serving {
			serving = now
			b.announce(broken)
		}
		if !serving && roomIn(b.cfg.DataDir) == nil {
			b.engine.Abandon()
			b.fail(fmt.Errorf("broker: there is room, and the store has to be opened anew: %w", broken))
			return
		}
	}
}

// announce tells health checks whether the broker serves.
func (b *Broker) announce(broken error) {
	if broken == nil {
		b.cfg.Log.Info("the store takes writes again")
		b.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
		return
	}
	b.cfg.Log.Error("the store takes no writes", "folder", b.cfg.DataDir, "error", broken)
	b.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
}

// roomIn tries whether a file of some size fits into the folder, and whether more files can be opened: a store that runs
// out of them while it opens would come up without some of what it holds.
func roomIn(dir string) (err error) {
	path := filepath.Join(dir, "room.tmp")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, storeRoom))
	err = errors.Join(err, f.Sync(), f.Close())
	for range storeFiles {
		more, openErr := os.Open(path)
		if openErr != nil {
			err = errors.Join(err, openErr)
			break
		}
		defer more.Close()
	}
	return errors.Join(err, os.Remove(path))
}
