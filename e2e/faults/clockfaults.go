package faults

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// clockError is how wrong the clocks are that F14 sets.
const clockError = 2 * time.Hour

// moveAPIs sets one API's clock ahead and the other one's back, and then the other way round.
func moveAPIs(ctx context.Context, r *run, d time.Duration) (string, error) {
	for _, ahead := range []time.Duration{clockError, -clockError} {
		if err := errors.Join(r.apis[0].clock.set(ahead), r.apis[1].clock.set(-ahead)); err != nil {
			return "", err
		}
		r.checkClock(ctx, ahead)
		hold(ctx, d/2)
	}
	return "", errors.Join(r.apis[0].clock.set(0), r.apis[1].clock.set(0))
}

// checkClock makes sure that an API goes by the clock that it was given: it says so in each answer.
func (r *run) checkClock(ctx context.Context, ahead time.Duration) {
	const near = time.Minute
	got := r.http.do(ctx, 0, r.clients[0], request{op: opMe, method: http.MethodGet, path: "/v1/me"})
	shown, err := http.ParseTime(got.date)
	if off := shown.Sub(time.Now().Add(ahead)); err != nil || off.Abs() > near {
		r.violation(strange, "an API whose clock is %s ahead says that it is %q", ahead, got.date)
	}
}

func moveBroker(ctx context.Context, r *run, d time.Duration) (string, error) {
	for _, ahead := range []time.Duration{clockError, 0, -clockError} {
		if err := r.brokerClock.set(ahead); err != nil {
			return "", err
		}
		hold(ctx, d/3)
	}
	return "", r.brokerClock.set(0)
}

// moveRedis lets a clock that was ahead from the start be so for some time, and then sets it back.
func moveRedis(ctx context.Context, r *run, d time.Duration) (string, error) {
	hold(ctx, d/2)
	err := r.redisClock.set(-clockError)
	hold(ctx, d/2)
	return "", err
}
