package faults

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	diskSize     = 48 << 20
	reopenWithin = 45 * time.Second // a broker whose files broke under it notices, and opens them anew
)

// mountSmall makes a folder a file system of its own, in memory, that holds so many bytes. Only root may.
func mountSmall(ctx context.Context, dir string, bytes int64) (unmount func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=700", bytes), "tmpfs", dir).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("a small file system: %w: %s", err, out)
	}
	return func() {
		_ = exec.Command("umount", "--lazy", dir).Run() //nolint:noctx // what is left of it goes with the machine
	}, nil
}

// fillDisk leaves no room on the disk of the broker for half of the time, lets it recover, and does it again: then the
// broker is killed while there is no room, so that what has a PUBACK is what is on the disk.
func fillDisk(ctx context.Context, r *run, d time.Duration) (string, error) {
	first, err := r.holdDisk(ctx, d/2, func() {})
	if err != nil {
		return "", err
	}
	took, amiss := r.recovery(ctx, reopenWithin, true)
	if took < 0 {
		r.violation(noRecovery, "the disk had room and the system was not well %s later: %s", reopenWithin, amiss)
	}
	second, err := r.holdDisk(ctx, d/2, func() { r.killed(); r.broker.Kill() })
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d PUBACKs meanwhile, well after %s; then %d, and a kill", first, recovered(took), second), r.broker.Restart()
}

// holdDisk leaves no room on the disk of the broker for some time, does something in the end, and makes room. It returns how
// many PUBACKs came meanwhile.
func (r *run) holdDisk(ctx context.Context, d time.Duration, end func()) (pubacks int, err error) {
	ballast := filepath.Join(r.dir, "broker", "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.Remove(ballast) }() // the file system goes, too
	piece := make([]byte, 4<<10)
	refill := func() error {
		for {
			if _, err := f.Write(piece); err != nil {
				if errors.Is(err, syscall.ENOSPC) {
					return nil
				}
				return fmt.Errorf("ballast: %w", err)
			}
		}
	}
	before := r.pubacks()
	for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; hold(ctx, probeEvery) {
		if err := refill(); err != nil { // what the broker removes is taken as well
			return 0, errors.Join(err, f.Close())
		}
	}
	end()
	return r.pubacks() - before, errors.Join(f.Close(), os.Remove(ballast))
}

// pubacks returns how many replies have their PUBACK.
func (r *run) pubacks() (n int) {
	r.journal.note(func(j *journal) {
		for _, p := range j.replies {
			if !p.acked.IsZero() {
				n++
			}
		}
	})
	return n
}

// exhaustFiles lets the broker keep the files and connections that it has, and open no other.
func exhaustFiles(ctx context.Context, r *run, d time.Duration) (string, error) {
	if err := r.limitFiles(ctx, 1); err != nil {
		return "", err
	}
	before, knocks, refused := r.pubacks(), 0, 0
	for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; hold(ctx, probeEvery) {
		if knocks++; !greeted(ctx, r.at.MQTT) {
			refused++
		}
	}
	if refused == 0 {
		r.violation(strange, "the broker had a file descriptor for every connection")
	}
	var own syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err != nil {
		return "", fmt.Errorf("limit of files: %w", err)
	}
	return fmt.Sprintf("%d of %d who knocked found nobody; %d PUBACKs meanwhile", refused, knocks, r.pubacks()-before), r.limitFiles(ctx, own.Cur)
}

// limitFiles bounds the broker's file descriptors. Those that it has stay.
func (r *run) limitFiles(ctx context.Context, n uint64) error {
	out, err := exec.CommandContext(context.WithoutCancel(ctx), "prlimit", "--pid", fmt.Sprint(r.broker.PID()), fmt.Sprintf("--nofile=%d:", n)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("limit of files: %w: %s", err, out)
	}
	return nil
}

// greeted reports whether a server answers to the first bytes of TLS.
func greeted(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, scrapeWithin)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // nothing is said to it
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}
