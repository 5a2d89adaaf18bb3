package faults

import (
	"context"
	"fmt"
	"time"
)

const (
	revokedWithin = time.Second
	expiredWithin = 60 * time.Second
	shortLife     = 3 * time.Second // of a certificate that is to expire
)

// endCertificates revokes a camera's certificate and lets another one's expire, while both are connected. It lasts until
// both are cut, which may be longer than d.
func endCertificates(ctx context.Context, r *run, d time.Duration) (string, error) {
	began := time.Now()
	expiring, expiringCut, err := r.connectOne(ctx, "expiring", shortLife)
	if err != nil {
		return "", err
	}
	defer expiring.disconnect()
	expires := time.Now().Add(shortLife)
	revoked, revokedCut, err := r.connectOne(ctx, "revoked", oneDay)
	if err != nil {
		return "", err
	}
	defer revoked.disconnect()
	path := "/v1/devices/" + revoked.ID + "/certificates/" + revoked.Certificates[0].Fingerprint
	revokes := time.Now()
	if err := r.remove(ctx, path); err != nil {
		return "", err
	}
	first := r.awaitCut(ctx, revoked, revokedCut, revokes, revokedWithin)
	second := r.awaitCut(ctx, expiring, expiringCut, expires, expiredWithin)
	hold(ctx, d-time.Since(began))
	return fmt.Sprintf("the revoked one was cut after %s, the expired one after %s", first.Round(time.Millisecond), second.Round(100*time.Millisecond)), ctx.Err()
}

// connectOne registers one more camera and connects it.
func (r *run) connectOne(ctx context.Context, name string, valid time.Duration) (cam *foreignCamera, cut <-chan struct{}, err error) {
	registered, err := r.register(ctx, fmt.Sprintf("%s-%d", name, time.Now().UnixNano()), valid)
	if err != nil {
		return nil, nil, err
	}
	if cam, err = r.newForeignCamera(registered, r.cfg.Seed); err != nil {
		return nil, nil, err
	}
	if cut, err = cam.connect(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return cam, cut, nil
}

// awaitCut waits until a camera is cut whose certificate ended, makes sure that it cannot come back, and returns how long
// it took.
func (r *run) awaitCut(ctx context.Context, cam *foreignCamera, cut <-chan struct{}, ended time.Time, within time.Duration) time.Duration {
	late := time.NewTimer(time.Until(ended.Add(within)))
	defer late.Stop()
	select {
	case <-ctx.Done():
		return 0
	case <-cut:
	case <-late.C:
		r.violation(lingering, "device %s is connected %s after its certificate ended", cam.ID, within)
	}
	took := time.Since(ended)
	cam.disconnect()
	if _, err := cam.connect(); err == nil {
		r.violation(lingering, "device %s connected again after its certificate ended", cam.ID)
	}
	return took
}
