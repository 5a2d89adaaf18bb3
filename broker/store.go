package broker

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// How a store that takes no writes is judged.
const (
	storeCheck   = time.Second
	storeFailing = 5 * time.Second // a stream that answers nothing for so long does not serve
	storeRoom    = 8 << 20         // bytes that must fit on the disk before opening the store anew is worth while
	storeFiles   = 64              // files that must be to be had then
)

// watchStore looks after the store until ctx ends. While a stream takes no writes, callers are told that the broker does
// not serve. A disk that was full and has room again heals only with a new start: then the broker fails, so that
// whoever started it starts it again. Nothing is lost meanwhile: what could not be written was acknowledged to nobody.
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
		failing := b.engine.Failing()
		if now := failing < storeFailing; now != serving {
			serving = now
			b.announce(serving)
		}
		if !serving && roomIn(b.cfg.DataDir) == nil {
			b.fail(errors.New("broker: the store takes no writes although the disk has room: it has to be opened anew"))
		}
	}
}

// announce tells health checks whether the broker serves.
func (b *Broker) announce(serving bool) {
	if serving {
		b.cfg.Log.Info("the store takes writes again")
		b.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
		return
	}
	b.cfg.Log.Error("the store takes no writes", "folder", b.cfg.DataDir)
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
